//! A rung of one of the two ladders (reading, watching), and why it is not a better one.

/// The rung in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rung {
    /// `uring`, `pread`, `inotify` or `poll`.
    pub name: &'static str,
    /// The better rung and why it is not used; `None` on the best.
    pub not_better: Option<(&'static str, String)>,
}

impl Rung {
    /// The best rung.
    pub fn best(name: &'static str) -> Self {
        Self { name, not_better: None }
    }

    /// A rung below `better`, which is not used because of `why`.
    pub fn below(name: &'static str, better: &'static str, why: impl Into<String>) -> Self {
        Self { name, not_better: Some((better, why.into())) }
    }
}

impl std::fmt::Display for Rung {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.not_better {
            None => f.write_str(self.name),
            Some((better, why)) => write!(f, "{} ({better} not used: {why})", self.name),
        }
    }
}
