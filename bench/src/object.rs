//! The API objects that audit events carry as bodies: a small made-up cluster of deployments and their pods.

use crate::json::Json;
use crate::utc::object_time;

const NAMES: [&str; 12] = [
    "auth", "billing", "catalog", "checkout", "gateway", "ingest", "ledger", "mailer", "search", "session", "task",
    "web",
];
const NAMESPACES: [&str; 8] =
    ["ci", "data-platform", "default", "kube-system", "monitoring", "payments", "sandbox", "team-b"];
const TEAMS: [&str; 4] = ["blue", "green", "platform", "red"];
const TIERS: [&str; 3] = ["be", "data", "fe"];
const VARIABLES: [&str; 9] =
    ["CACHE_TTL", "DB_URL", "FEATURES", "LOG_LEVEL", "OTEL_EXPORTER", "PORT", "REGION", "TZ", "WORKERS"];
/// Values that need escaping are over-represented: a collector that alters them shall be noticed.
const VALUES: [&str; 5] = ["true", "8080", "été", "x y \"z\"", "a<b&c>"];

/// One deployment, with what its pods, replica sets and endpoints have in common.
#[derive(Clone, Debug)]
pub(crate) struct App {
    pub(crate) name: String,
    pub(crate) namespace: &'static str,
    pub(crate) uid: String,
    /// Hash of the current pod template.
    pub(crate) hash: String,
    pub(crate) replicas: u8,
    base: &'static str,
    team: &'static str,
    tier: &'static str,
    image: String,
    environment: Vec<(&'static str, &'static str)>,
    sidecar: bool,
    /// Seconds since the epoch.
    created_s: u64,
}

impl App {
    pub(crate) fn new(rng: &mut fastrand::Rng, created_s: u64) -> Self {
        let base = pick(rng, &NAMES);
        let first = rng.usize(..VARIABLES.len() - 1);
        let last = rng.usize(first + 1..=VARIABLES.len());
        Self {
            name: format!("{base}-{}", suffix(rng, 4)),
            namespace: pick(rng, &NAMESPACES),
            uid: uuid(rng),
            hash: suffix(rng, 10),
            replicas: rng.u8(1..7),
            base,
            team: pick(rng, &TEAMS),
            tier: pick(rng, &TIERS),
            image: format!("registry.example.com/{base}:v{}.{}.{}", rng.u8(1..9), rng.u8(..20), rng.u8(..20)),
            environment: VARIABLES[first..last].iter().map(|name| (*name, pick(rng, &VALUES))).collect(),
            sidecar: rng.bool(),
            created_s,
        }
    }

    /// Name of the replica set of the current template.
    pub(crate) fn replica_set(&self) -> String {
        format!("{}-{}", self.name, self.hash)
    }

    /// The fields `kind` and `apiVersion`, then `metadata`; a `version` makes it a stored object.
    pub(crate) fn heading(&self, j: &mut Json<'_>, kind: &str, api: &str, name: &str, version: Option<&str>) {
        j.text("kind", &[kind]);
        j.text("apiVersion", &[api]);
        j.object("metadata", |j| {
            j.text("name", &[name]);
            j.text("namespace", &[self.namespace]);
            if let Some(version) = version {
                j.text("uid", &[&self.uid]);
                j.text("resourceVersion", &[version]);
                j.raw("generation", "1");
                j.text("creationTimestamp", &[&object_time(self.created_s * crate::utc::SECOND_US)]);
            }
            self.labels(j);
            if kind == "Deployment" {
                j.object("annotations", |j| {
                    j.text("deployment.kubernetes.io/revision", &["1"]);
                    j.text("kubectl.kubernetes.io/last-applied-configuration", &[&self.applied(name)]);
                });
            }
            if version.is_some() {
                j.array("managedFields", |j| self.managed_fields(j, kind, api));
            }
        });
    }

    /// `spec` of a deployment or replica set.
    pub(crate) fn workload_spec(&self, j: &mut Json<'_>) {
        j.object("spec", |j| {
            j.raw("replicas", &self.replicas.to_string());
            j.object("selector", |j| {
                j.object("matchLabels", |j| j.text("app.kubernetes.io/instance", &[&self.name]));
            });
            j.object("template", |j| {
                j.object("metadata", |j| self.labels(j));
                self.pod_spec(j);
            });
            j.raw("strategy", r#"{"type":"RollingUpdate","rollingUpdate":{"maxUnavailable":"25%","maxSurge":"25%"}}"#);
            j.raw("revisionHistoryLimit", "10");
        });
    }

    /// `spec` of a pod.
    pub(crate) fn pod_spec(&self, j: &mut Json<'_>) {
        j.object("spec", |j| {
            j.raw("volumes", r#"[{"name":"cfg","emptyDir":{}}]"#);
            j.array("containers", |j| {
                j.item(|j| self.container(j));
                if self.sidecar {
                    j.item(|j| {
                        j.text("name", &["sidecar"]);
                        j.text("image", &["registry.example.com/envoy:1.31"]);
                        j.raw("args", r#"["-c","/etc/envoy.yaml"]"#);
                        j.raw("securityContext", r#"{"privileged":false}"#);
                    });
                }
            });
            j.text("restartPolicy", &["Always"]);
            j.raw("terminationGracePeriodSeconds", "30");
            j.text("dnsPolicy", &["ClusterFirst"]);
            j.raw("securityContext", "{}");
            j.text("schedulerName", &["default-scheduler"]);
            j.raw("tolerations", r#"[{"operator":"Exists"}]"#);
            j.raw("enableServiceLinks", "true");
        });
    }

    fn container(&self, j: &mut Json<'_>) {
        j.text("name", &[self.base]);
        j.text("image", &[&self.image]);
        j.array("command", |j| {
            j.text_item(&format!("/bin/{}", self.base));
            j.text_item("--config=/etc/app/config.yaml");
        });
        j.raw("ports", r#"[{"name":"http","containerPort":8080,"protocol":"TCP"}]"#);
        j.array("env", |j| {
            for (name, value) in &self.environment {
                j.item(|j| {
                    j.text("name", &[name]);
                    j.text("value", &[value]);
                });
            }
        });
        j.raw("resources", r#"{"limits":{"memory":"1Gi"},"requests":{"cpu":"350m","memory":"463Mi"}}"#);
        j.raw("volumeMounts", r#"[{"name":"cfg","mountPath":"/etc/app"}]"#);
        j.object("readinessProbe", |j| {
            j.object("httpGet", |j| {
                j.text("path", &["/healthz?full=1&x=<y>"]);
                j.raw("port", "8080");
                j.text("scheme", &["HTTP"]);
            });
            j.raw("timeoutSeconds", "1");
            j.raw("periodSeconds", "10");
        });
        j.text("terminationMessagePath", &["/dev/termination-log"]);
        j.text("terminationMessagePolicy", &["File"]);
        j.text("imagePullPolicy", &["IfNotPresent"]);
    }

    fn labels(&self, j: &mut Json<'_>) {
        j.object("labels", |j| {
            j.text("app.kubernetes.io/instance", &[&self.name]);
            j.text("app.kubernetes.io/name", &[self.base]);
            j.text("team", &[self.team]);
            j.text("tier", &[self.tier]);
        });
    }

    /// What `kubectl apply` keeps as text inside the object: JSON in JSON, so that quotes are escaped twice.
    fn applied(&self, name: &str) -> String {
        let mut out = Vec::with_capacity(2048);
        Json(&mut out).item(|j| {
            j.text("apiVersion", &["apps/v1"]);
            j.text("kind", &["Deployment"]);
            j.object("metadata", |j| {
                j.text("name", &[name]);
                self.labels(j);
            });
            self.workload_spec(j);
        });
        String::from_utf8_lossy(&out).into_owned()
    }

    /// Server-side apply's bookkeeping: the bulkiest and most repetitive part of real bodies.
    fn managed_fields(&self, j: &mut Json<'_>, kind: &str, api: &str) {
        j.item(|j| {
            j.text("manager", &["kube-controller-manager"]);
            j.text("operation", &["Update"]);
            j.text("apiVersion", &[api]);
            j.text("time", &[&object_time(self.created_s * crate::utc::SECOND_US)]);
            j.text("fieldsType", &["FieldsV1"]);
            j.object("fieldsV1", |j| {
                j.raw("f:metadata", LABEL_FIELDS);
                match kind {
                    "ConfigMap" => j.raw("f:data", r#"{".":{},"f:k0.conf":{}}"#),
                    "Pod" => j.object("f:spec", |j| self.managed_pod_fields(j)),
                    _ => j.object("f:spec", |j| {
                        j.raw("f:replicas", "{}");
                        j.object("f:template", |j| {
                            j.raw("f:metadata", LABEL_FIELDS);
                            j.object("f:spec", |j| self.managed_pod_fields(j));
                        });
                    }),
                }
            });
        });
    }

    fn managed_pod_fields(&self, j: &mut Json<'_>) {
        j.object("f:containers", |j| {
            j.object(&format!("k:{{\"name\":\"{}\"}}", self.base), |j| {
                j.raw(".", "{}");
                j.raw("f:command", "{}");
                j.object("f:env", |j| {
                    j.raw(".", "{}");
                    for (name, _) in &self.environment {
                        j.raw(&format!("k:{{\"name\":\"{name}\"}}"), r#"{".":{},"f:name":{},"f:value":{}}"#);
                    }
                });
                for field in CONTAINER_FIELDS {
                    j.raw(field, "{}");
                }
                j.raw("f:readinessProbe", PROBE_FIELDS);
            });
        });
        for field in POD_FIELDS {
            j.raw(field, "{}");
        }
    }
}

const LABEL_FIELDS: &str =
    r#"{"f:labels":{".":{},"f:app.kubernetes.io/instance":{},"f:app.kubernetes.io/name":{},"f:team":{},"f:tier":{}}}"#;
const PROBE_FIELDS: &str = r#"{".":{},"f:failureThreshold":{},"f:httpGet":{".":{},"f:path":{},"f:port":{},"f:scheme":{}},"f:periodSeconds":{},"f:timeoutSeconds":{}}"#;
const CONTAINER_FIELDS: [&str; 7] = [
    "f:image",
    "f:imagePullPolicy",
    "f:name",
    "f:resources",
    "f:terminationMessagePath",
    "f:terminationMessagePolicy",
    "f:volumeMounts",
];
const POD_FIELDS: [&str; 8] = [
    "f:dnsPolicy",
    "f:enableServiceLinks",
    "f:restartPolicy",
    "f:schedulerName",
    "f:securityContext",
    "f:terminationGracePeriodSeconds",
    "f:tolerations",
    "f:volumes",
];

/// One of the choices.
pub(crate) fn pick<T: Copy>(rng: &mut fastrand::Rng, choices: &[T]) -> T {
    choices[rng.usize(..choices.len())]
}

/// A random version 4 UUID.
pub(crate) fn uuid(rng: &mut fastrand::Rng) -> String {
    let tail = rng.u64(..);
    uuid_ending_in(rng, tail)
}

/// A version 4 UUID whose last 48 bits are those of `tail`.
pub(crate) fn uuid_ending_in(rng: &mut fastrand::Rng, tail: u64) -> String {
    let (first, second, third, fourth) = (rng.u32(..), rng.u16(..), rng.u16(..0x1000), rng.u16(0x8000..0xc000));
    format!("{first:08x}-{second:04x}-4{third:03x}-{fourth:04x}-{:012x}", tail & 0xffff_ffff_ffff)
}

/// The kind of random text Kubernetes appends to generated names.
pub(crate) fn suffix(rng: &mut fastrand::Rng, length: usize) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    (0..length).map(|_| char::from(pick(rng, ALPHABET))).collect()
}
