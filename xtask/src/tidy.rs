//! The house rules that no lint checks.

use std::fs;
use std::path::Path;

use crate::Failure;

/// Lines a source file may have.
const LINES_MAX: usize = 500;

/// Names that hold nothing of ours; `.git` is a file in a linked worktree.
const SKIPPED: [&str; 2] = ["target", ".git"];

/// A text that must not occur, where, and why. The texts are put together here, so that this file is clean.
struct Ban {
    text: &'static str,
    applies: fn(&str) -> bool,
    why: &'static str,
}

const BANS: [Ban; 9] = [
    Ban { text: concat!("TO", "DO"), applies: is_rust, why: "finish it, or write an issue" },
    Ban { text: concat!("FIX", "ME"), applies: is_rust, why: "fix it, or write an issue" },
    Ban { text: concat!("to", "do!("), applies: is_rust, why: "no stubs" },
    Ban { text: concat!("db", "g!("), applies: is_rust, why: "left over from debugging" },
    Ban { text: concat!("#[ign", "ore]"), applies: is_rust, why: "say why: #[ignore = \"reason\"]" },
    Ban { text: concat!("thread::", "sleep"), applies: is_agent, why: "wait for the effect, not for a time" },
    Ban { text: concat!("/ho", "me/"), applies: |_| true, why: "a path of one machine" },
    Ban { text: concat!("/Us", "ers/"), applies: |_| true, why: "a path of one machine" },
    Ban { text: concat!("/wo", "rk/"), applies: |_| true, why: "a path of one machine" },
];

fn is_rust(path: &str) -> bool {
    path.ends_with(".rs")
}

fn is_agent(path: &str) -> bool {
    is_rust(path) && path.starts_with("agent/")
}

/// Checks every text file below `root`; prints what it finds.
pub(crate) fn run(root: &Path) -> Result<(), Failure> {
    println!("$ cargo xtask tidy");
    let mut findings = Vec::new();
    walk(root, root, &mut findings)?;
    findings.iter().for_each(|finding| println!("{finding}"));
    if findings.is_empty() { Ok(()) } else { Err(format!("{} house rules broken", findings.len()).into()) }
}

fn walk(root: &Path, directory: &Path, findings: &mut Vec<String>) -> Result<(), Failure> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path();
        if SKIPPED.iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        if entry.file_type()?.is_dir() {
            walk(root, &path, findings)?;
        } else if let Ok(text) = fs::read_to_string(&path) {
            // What is not UTF-8 is no text of ours.
            let relative = path.strip_prefix(root).unwrap_or(&path).to_string_lossy();
            findings.extend(check(&relative, &text));
        }
    }
    Ok(())
}

/// The rules that a file breaks, as `path:line: what`.
fn check(path: &str, text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    let lines = text.lines().count();
    if is_rust(path) && lines > LINES_MAX {
        findings.push(format!("{path}:{lines}: more than {LINES_MAX} lines; split it"));
    }
    for (number, line) in (1..).zip(text.lines()) {
        for Ban { text, why, .. } in BANS.iter().filter(|ban| (ban.applies)(path) && occurs(line, ban.text)) {
            findings.push(format!("{path}:{number}: {text}: {why}"));
        }
    }
    findings
}

/// Whether a text occurs in a line, not as the continuation of a longer word or path.
fn occurs(line: &str, text: &str) -> bool {
    let continues = |before: char| before.is_alphanumeric() || matches!(before, '_' | '.' | '-' | '}');
    line.match_indices(text).any(|(at, _)| !line[..at].ends_with(continues))
}

#[cfg(test)]
mod tests {
    use super::*;

    // Fails if a rule is not enforced where it holds, or enforced where it does not.
    #[test]
    fn rules_hold_where_they_should() {
        let broken = |path: &str, text: &str| !check(path, text).is_empty();
        for Ban { text, .. } in &BANS {
            assert!(broken("agent/src/a.rs", &format!("x {text} y")), "{text}");
        }
        assert!(broken("docs/a.md", BANS[6].text));
        assert!(!broken("bench/src/a.rs", BANS[5].text));
        assert!(!broken("docs/a.md", BANS[0].text));
        assert!(!broken("agent/src/a.rs", "#[ignore = \"needs root\"]"));
        assert!(!broken("docs/a.md", &format!("https://example.com{}page", BANS[6].text)));
        assert!(broken("agent/src/a.rs", &"x\n".repeat(LINES_MAX + 1)));
        assert!(!broken("agent/src/a.rs", &"x\n".repeat(LINES_MAX)));
    }

    // Fails if a file of this repository breaks a house rule.
    #[test]
    fn this_repository_is_tidy() {
        let mut findings = Vec::new();
        walk(crate::root(), crate::root(), &mut findings).unwrap();
        assert!(findings.is_empty(), "{}", findings.join("\n"));
    }
}
