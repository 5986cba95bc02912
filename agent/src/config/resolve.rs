//! Which value of a setting holds: command line, then our own environment name, then a foreign one, then the file,
//! then the default. Also the one place that reads the file and asks the machine.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::problem::{Origin, Problems};
use super::settings::{self, AliasForm, SETTINGS, Setting};
use super::yaml::{self, Given};
use super::{Config, build};

/// Largest configuration file, in bytes; a larger one is something else.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Framing threads used by default: more do not help one audit log and would take from the node.
const WORKERS_DEFAULT_MAX: usize = 2;

/// A configuration that may be used, and how it came about.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Every setting with the value that holds, in the order of [`SETTINGS`].
    pub effective: Vec<EffectiveSetting>,
}

/// One line of the table `auditail check` shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EffectiveSetting {
    /// Dotted key.
    pub key: &'static str,
    /// The value as it was given, secrets hidden; empty where there is none.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
}

/// What a configuration is made from, as plain values.
pub struct Inputs<'a> {
    /// Settings from command line options: dotted key and value. A list setting may occur several times.
    pub flags: &'a [(&'static str, String)],
    /// Name and content of the configuration file.
    pub file: Option<(&'a str, &'a str)>,
    /// Looks up an environment variable.
    pub env: &'a dyn Fn(&str) -> Option<OsString>,
    /// Name of the host.
    pub host_name: &'a str,
    /// Processors this process may use.
    pub processors: usize,
}

/// Reads the configuration from `file`, the environment (`std::env::var_os` fits `env`) and options of the command
/// line, which go before both.
///
/// # Errors
/// All [`Problems`] there are, each with its place. A file that cannot be read is one.
pub fn load(
    file: Option<&Path>,
    flags: &[(&'static str, String)],
    env: impl Fn(&str) -> Option<OsString>,
) -> Result<Loaded, Problems> {
    let name = file.map(|path| path.display().to_string()).unwrap_or_default();
    let mut problems = Problems::default();
    let text = file.and_then(|path| match read_file(path) {
        Ok(text) => Some(text),
        Err(what) => {
            let origin = Origin::File { name: name.clone(), line: 0 };
            problems.add(&origin, "", what, "check the path given with --config");
            None
        }
    });
    if !problems.0.is_empty() {
        return Err(problems);
    }
    resolve(&Inputs {
        flags,
        file: text.as_deref().map(|text| (name.as_str(), text)),
        env: &env,
        host_name: &rustix::system::uname().nodename().to_string_lossy(),
        processors: std::thread::available_parallelism().map_or(1, usize::from),
    })
}

/// Makes the configuration from its inputs. Pure.
///
/// # Errors
/// All [`Problems`] there are.
pub fn resolve(inputs: &Inputs<'_>) -> Result<Loaded, Problems> {
    let mut problems = Problems::default();
    let mut from_file = match inputs.file {
        Some((name, text)) => yaml::read(name, text, &mut problems),
        None => BTreeMap::new(),
    };
    let mut values = BTreeMap::new();
    for setting in SETTINGS {
        let file_value = from_file.remove(setting.key);
        let given = from_flags(inputs, setting)
            .or_else(|| from_environment(inputs, setting, &mut problems))
            .or(file_value)
            .or_else(|| default_of(inputs, setting));
        values.extend(given.map(|given| (setting.key, given)));
    }
    let effective = SETTINGS.iter().map(|setting| effective(setting, values.get(setting.key))).collect();
    let missing = match inputs.file {
        Some((name, _)) => Origin::File { name: name.to_owned(), line: 0 },
        None => Origin::Unset,
    };
    let config = build::build(&values, missing, &mut problems);
    problems.or(config.map(|config| Loaded { config, effective }))
}

/// The content of the configuration file, or what is wrong with it.
fn read_file(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text));
    match read {
        Ok(len) if len as u64 > FILE_BYTES_MAX => Err(format!("is larger than {FILE_BYTES_MAX} bytes")),
        Ok(_) => Ok(text),
        Err(error) => Err(format!("cannot be read ({error})")),
    }
}

fn from_flags(inputs: &Inputs<'_>, setting: &Setting) -> Option<Given> {
    let same_key = inputs.flags.iter().filter(|(key, _)| *key == setting.key);
    let texts: Vec<_> = same_key.map(|(_, text)| text.clone()).collect();
    (!texts.is_empty()).then_some(Given { texts, origin: Origin::CommandLine })
}

/// The value of the first variable that is set. An empty one counts as not set: charts leave such behind for values
/// that were not given.
fn from_environment(inputs: &Inputs<'_>, setting: &Setting, problems: &mut Problems) -> Option<Given> {
    let own = std::iter::once((setting.own_name, AliasForm::Same));
    let names = own.chain(setting.aliases.iter().map(|alias| (alias.name, alias.form)));
    for (name, form) in names {
        let Some(value) = (inputs.env)(name).filter(|value| !value.is_empty()) else { continue };
        let origin = Origin::Environment(name);
        let Ok(text) = value.into_string() else {
            problems.add(&origin, setting.key, "is not UTF-8", "set it to UTF-8 text");
            continue;
        };
        let text = form.adapt(text.trim());
        let texts = if setting.kind.is_list() && form != AliasForm::Single {
            text.split(',').map(|part| part.trim().to_owned()).collect()
        } else {
            vec![text]
        };
        return Some(Given { texts, origin });
    }
    None
}

fn default_of(inputs: &Inputs<'_>, setting: &Setting) -> Option<Given> {
    let text = match setting.default {
        settings::Fallback::Value(text) => text.to_owned(),
        settings::Fallback::HostName => inputs.host_name.to_owned(),
        settings::Fallback::Processors => inputs.processors.min(WORKERS_DEFAULT_MAX).to_string(),
        settings::Fallback::Unset | settings::Fallback::Required => return None,
    };
    Some(Given { texts: vec![text], origin: Origin::Default })
}

fn effective(setting: &Setting, given: Option<&Given>) -> EffectiveSetting {
    let (value, origin) = match given {
        Some(given) => (setting.kind.redacted(&given.texts.join(", ")), given.origin.clone()),
        None => (String::new(), Origin::Unset),
    };
    EffectiveSetting { key: setting.key, value, origin }
}
