//! From configured paths and patterns to live logs, and to the directories in which further ones may appear.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use glob::Pattern;

use crate::disk::Disk;
use crate::source::name::looks_rotated;

/// What the configured paths lead to now.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Live logs. A path without wildcards is always among them, whether the file exists or not.
    pub logs: BTreeSet<PathBuf>,
    /// Existing directories in which a log, or a directory on the way to one, may appear.
    pub directories: BTreeSet<PathBuf>,
}

/// Expands the configured paths. In each component `*`, `?` and `[…]` match as in a shell; names of rotated files are
/// never matched by a wildcard.
pub fn discover<D: Disk>(disk: &D, paths: &[String]) -> Found {
    let mut found = Found::default();
    for path in paths {
        let (root, rest) = match path.strip_prefix('/') {
            Some(rest) => (Path::new("/"), rest),
            None => (Path::new("."), path.as_str()),
        };
        let components: Vec<&str> = rest.split('/').filter(|component| !component.is_empty()).collect();
        walk(disk, root, &components, &mut found);
    }
    found
}

fn walk<D: Disk>(disk: &D, directory: &Path, components: &[&str], found: &mut Found) {
    let Some((&component, rest)) = components.split_first() else { return };
    let wildcard = component.contains(['*', '?', '[']);
    if rest.is_empty() || wildcard {
        found.directories.insert(directory.to_owned());
    }
    if !wildcard {
        let path = directory.join(component);
        if rest.is_empty() {
            found.logs.insert(path);
        } else if disk.stat_path(&path).is_ok() {
            walk(disk, &path, rest, found);
        } else {
            found.directories.insert(directory.to_owned());
            // The log may be created together with its directory; it is known by its path all the same.
            if !rest.iter().any(|component| component.contains(['*', '?', '['])) {
                found.logs.insert(path.join(rest.join("/")));
            }
        }
        return;
    }
    let Ok(pattern) = Pattern::new(component) else { return };
    for entry in disk.list(directory).unwrap_or_default() {
        // As in a shell, hidden names have to be asked for.
        let hidden = entry.name.starts_with('.') && !component.starts_with('.');
        if hidden || !pattern.matches(&entry.name) {
            continue;
        }
        let path = directory.join(&entry.name);
        if !rest.is_empty() && entry.is_dir {
            walk(disk, &path, rest, found);
        } else if rest.is_empty() && !entry.is_dir && !looks_rotated(&entry.name) {
            found.logs.insert(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::real::RealDisk;

    // Fails if one of OpenShift's three logs is not found, or a rotated file is taken for a log of its own.
    #[test]
    fn patterns_find_live_logs_and_watch_their_directories() {
        let root = tempfile::tempdir().unwrap();
        for server in ["kube-apiserver", "oauth-apiserver", "other"] {
            std::fs::create_dir(root.path().join(server)).unwrap();
        }
        for name in [
            "kube-apiserver/audit.log",
            "kube-apiserver/audit-2026-11-21T02-17-46.037.log",
            "oauth-apiserver/audit.log",
            "other/x",
        ] {
            std::fs::write(root.path().join(name), b"").unwrap();
        }
        let disk = RealDisk::new(root.path().into(), None);
        let pattern = format!("{}/*-apiserver/audit*.log", root.path().display());
        let found = discover(&disk, &[pattern]);
        let logs: Vec<_> =
            found.logs.iter().map(|log| log.strip_prefix(root.path()).unwrap().to_str().unwrap()).collect();
        assert_eq!(logs, ["kube-apiserver/audit.log", "oauth-apiserver/audit.log"]);
        assert!(found.directories.contains(root.path()));
    }

    // Fails if a log whose directory does not exist yet would not be noticed when it is made.
    #[test]
    fn a_missing_directory_is_waited_for() {
        let root = tempfile::tempdir().unwrap();
        let disk = RealDisk::new(root.path().into(), None);
        let path = root.path().join("kubernetes/audit/audit.log");
        let found = discover(&disk, &[path.to_str().unwrap().to_owned()]);
        assert!(found.logs.contains(&path));
        assert!(found.directories.contains(root.path()));
    }
}
