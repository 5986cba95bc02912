//! The frame of an audit event: who asked for what, and how it went, in the server's key order.

use crate::json::Json;
use crate::utc::event_time;

/// How every event starts; what does not is not an event of ours.
const OPENING: &[u8] = br#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":""#;
const AUDIT_ID_KEY: &[u8] = br#""auditID":""#;

/// Who makes a request, from where, with what.
#[derive(Clone, Copy)]
pub(crate) struct Actor {
    name: &'static str,
    uid: &'static str,
    groups: &'static [&'static str],
    agent: &'static str,
    addresses: &'static [&'static str],
    /// Why the request is allowed.
    reason: &'static str,
}

pub(crate) const ACTORS: [Actor; 5] = [
    Actor {
        name: "system:apiserver",
        uid: "36298271-53e3-42ae-afa4-22d6ba8dc4ec",
        groups: &["system:authenticated", "system:masters"],
        agent: "kube-apiserver/v1.36.2 (linux/amd64) kubernetes/98b3519",
        addresses: &["127.0.0.1"],
        reason: "",
    },
    Actor {
        name: "system:serviceaccount:kube-system:deployment-controller",
        uid: "16e58c68-2b38-4d14-9ba2-b7e32ef540c6",
        groups: &["system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated"],
        agent: "kube-controller-manager/v1.36.2 (linux/amd64) kubernetes/98b3519",
        addresses: &["127.0.0.1"],
        reason: "RBAC: allowed by ClusterRoleBinding \"system:controller:deployment-controller\" of ClusterRole \
                 \"system:controller:deployment-controller\" to ServiceAccount \"deployment-controller/kube-system\"",
    },
    Actor {
        name: "system:node:node-19",
        uid: "",
        groups: &["system:nodes", "system:authenticated"],
        agent: "kubelet/v1.36.2 (linux/amd64) kubernetes/98b3519",
        addresses: &["10.0.3.19"],
        reason: "",
    },
    Actor {
        name: "alice",
        uid: "uid-8764",
        groups: &["dev-team", "platform", "system:authenticated"],
        agent: "kubectl/v1.36.2 (linux/amd64) kubernetes/98b3519",
        addresses: &["192.168.7.10", "127.0.0.1"],
        reason: "RBAC: allowed by ClusterRoleBinding \"dev\" of ClusterRole \"edit\" to Group \"dev-team\"",
    },
    Actor {
        name: "argocd",
        uid: "uid-5581",
        groups: &["gitops", "system:authenticated"],
        agent: "argocd-server/v3.0.6 (linux/arm64)",
        addresses: &["10.0.1.7"],
        reason: "RBAC: allowed by ClusterRoleBinding \"gitops\" of ClusterRole \"admin\" to User \"argocd\"",
    },
];

pub(crate) type Body<'a> = &'a dyn Fn(&mut Json<'_>);

/// The parts of an event that differ from one call to the next.
pub(crate) struct Request<'a> {
    pub(crate) level: &'static str,
    pub(crate) stage: &'static str,
    pub(crate) verb: &'static str,
    /// `/api/v1`, `/apis/apps/v1`, …
    pub(crate) root: &'static str,
    pub(crate) resource: &'static str,
    pub(crate) name: &'a str,
    pub(crate) subresource: &'static str,
    pub(crate) query: &'static str,
    pub(crate) code: &'static str,
    pub(crate) request: Option<Body<'a>>,
    pub(crate) response: Option<Body<'a>>,
}

impl Default for Request<'_> {
    fn default() -> Self {
        Self {
            level: "Request",
            stage: "ResponseComplete",
            verb: "get",
            root: "/api/v1",
            resource: "pods",
            name: "",
            subresource: "",
            query: "",
            code: "200",
            request: None,
            response: None,
        }
    }
}

/// The parts every event has.
pub(crate) struct Frame<'a> {
    pub(crate) audit_id: &'a str,
    pub(crate) actor: &'a Actor,
    pub(crate) credential_id: &'a str,
    pub(crate) version: &'a str,
    pub(crate) namespace: &'static str,
    pub(crate) received_us: u64,
    pub(crate) now_us: u64,
}

impl Frame<'_> {
    /// Writes the event in the server's key order, without the newline.
    pub(crate) fn write(&self, request: &Request<'_>, out: &mut Vec<u8>) {
        out.extend_from_slice(OPENING);
        out.extend_from_slice(request.level.as_bytes());
        out.push(b'"');
        let mut json = Json(out);
        let j = &mut json;
        j.text("auditID", &[self.audit_id]);
        j.text("stage", &[request.stage]);
        j.text("requestURI", &[&self.uri(request)]);
        j.text("verb", &[request.verb]);
        self.user(j);
        j.array("sourceIPs", |j| self.actor.addresses.iter().for_each(|address| j.text_item(address)));
        j.text("userAgent", &[self.actor.agent]);
        self.object_ref(j, request);
        self.status(j, request);
        if let Some(body) = request.request {
            j.object("requestObject", body);
        }
        if let Some(body) = request.response {
            j.object("responseObject", body);
        }
        j.text("requestReceivedTimestamp", &[&event_time(self.received_us)]);
        j.text("stageTimestamp", &[&event_time(self.now_us)]);
        j.object("annotations", |j| {
            let denied = request.code == "403";
            j.text("authorization.k8s.io/decision", &[if denied { "forbid" } else { "allow" }]);
            j.text("authorization.k8s.io/reason", &[if denied { "" } else { self.actor.reason }]);
        });
        out.push(b'}');
    }

    fn uri(&self, request: &Request<'_>) -> String {
        let Request { root, resource, name, subresource, query, .. } = request;
        let mut uri = format!("{root}/namespaces/{}/{resource}", self.namespace);
        for segment in [name, subresource].into_iter().filter(|segment| !segment.is_empty()) {
            uri.push('/');
            uri.push_str(segment);
        }
        uri + query
    }

    fn user(&self, j: &mut Json<'_>) {
        let Actor { name, uid, groups, .. } = self.actor;
        j.object("user", |j| {
            j.text("username", &[name]);
            if !uid.is_empty() {
                j.text("uid", &[uid]);
            }
            j.array("groups", |j| groups.iter().for_each(|group| j.text_item(group)));
            if name.starts_with("system:serviceaccount:") {
                j.object("extra", |j| {
                    j.array("authentication.kubernetes.io/credential-id", |j| j.text_item(self.credential_id));
                });
            }
        });
        // A tenth of what people do, they do as someone else.
        if *name == "alice" && self.now_us.is_multiple_of(10) {
            j.raw("impersonatedUser", r#"{"username":"ci-bot","groups":["ci","system:authenticated"]}"#);
        }
    }

    fn object_ref(&self, j: &mut Json<'_>, request: &Request<'_>) {
        let Request { root, resource, name, subresource, verb, .. } = request;
        j.object("objectRef", |j| {
            j.text("resource", &[resource]);
            j.text("namespace", &[self.namespace]);
            if !name.is_empty() {
                j.text("name", &[name]);
            }
            if let Some(group) = root.strip_prefix("/apis/").and_then(|rest| rest.strip_suffix("/v1")) {
                j.text("apiGroup", &[group]);
            }
            j.text("apiVersion", &["v1"]);
            if matches!(*verb, "update" | "patch") {
                j.text("resourceVersion", &[self.version]);
            }
            if !subresource.is_empty() {
                j.text("subresource", &[subresource]);
            }
        });
    }

    fn status(&self, j: &mut Json<'_>, request: &Request<'_>) {
        let Request { resource, name, code, .. } = request;
        let failure = match *code {
            "403" => {
                Some(("Forbidden", format!("{resource} \"{name}\" is forbidden: User \"{}\" cannot", self.actor.name)))
            }
            "404" => Some(("NotFound", format!("{resource} \"{name}\" not found"))),
            _ => None,
        };
        j.object("responseStatus", |j| {
            j.raw("metadata", "{}");
            if let Some((reason, message)) = failure {
                j.text("status", &["Failure"]);
                j.text("message", &[&message]);
                j.text("reason", &[reason]);
                j.object("details", |j| {
                    j.text("name", &[name]);
                    j.text("kind", &[resource]);
                });
            }
            j.raw("code", code);
        });
    }
}

/// The serial number of a line made by a [`Generator`]; `None` for any other line, also for a part of one that
/// lacks its start.
pub fn parse_serial(line: &[u8]) -> Option<u64> {
    let rest = line.strip_prefix(OPENING)?;
    let level = rest.iter().position(|byte| *byte == b'"')?;
    let audit_id = rest[level + 1..].strip_prefix(b",")?.strip_prefix(AUDIT_ID_KEY)?.get(..37)?;
    let serial = audit_id.strip_suffix(b"\"")?.get(24..)?;
    u64::from_str_radix(std::str::from_utf8(serial).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(request: &Request<'_>) -> String {
        let mut out = Vec::new();
        let frame = Frame {
            audit_id: "0e411ddb-27d8-474f-81d7-00000000002a",
            actor: &ACTORS[3],
            credential_id: "JTI=1",
            version: "7",
            namespace: "ci",
            received_us: 1_000_000,
            now_us: 1_000_010,
        };
        frame.write(request, &mut out);
        String::from_utf8(out).unwrap()
    }

    // Fails if a key is missing, misplaced or misspelt, or an escape or a timestamp has another form.
    #[test]
    fn keys_come_in_the_order_of_the_server() {
        let body: Body<'_> = &|j| j.text("kind", &["Pod"]);
        let request =
            Request { name: "web", query: "?a=1&b=2", request: Some(body), response: Some(body), ..Request::default() };
        let line = event(&request);
        let keys = [
            "{\"kind\":\"Event\"",
            "\"apiVersion\":",
            "\"level\":",
            "\"auditID\":",
            "\"stage\":",
            "\"requestURI\":\"/api/v1/namespaces/ci/pods/web?a=1\\u0026b=2\"",
            "\"verb\":",
            "\"user\":",
            "\"impersonatedUser\":",
            "\"sourceIPs\":",
            "\"userAgent\":",
            "\"objectRef\":",
            "\"responseStatus\":",
            "\"requestObject\":",
            "\"responseObject\":",
            "\"requestReceivedTimestamp\":\"1970-01-01T00:00:01.000000Z\"",
            "\"stageTimestamp\":\"1970-01-01T00:00:01.000010Z\"",
            "\"annotations\":",
        ];
        let mut from = 0;
        for key in keys {
            let at = line[from..].find(key).unwrap_or_else(|| panic!("{key} is not behind byte {from} of {line}"));
            from += at + key.len();
        }
    }

    // Fails if a serial is read from anything but the head of a whole event, such as a wrapped or cut one.
    #[test]
    fn a_serial_is_read_from_events_only() {
        let line = event(&Request::default());
        assert_eq!(parse_serial(line.as_bytes()), Some(42));
        assert_eq!(parse_serial(&line.as_bytes()[1..]), None);
        assert_eq!(parse_serial(&line.as_bytes()[..90]), None);
        assert_eq!(parse_serial(format!("{{\"malformed\":{line}}}").as_bytes()), None);
        assert_eq!(parse_serial(line.replace("0000002a", "0000002x").as_bytes()), None);
    }
}
