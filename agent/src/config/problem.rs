//! What is wrong with a configuration, and where.

use std::fmt;

/// Where a value came from, or where one is missing. The order is the order in which problems are shown.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// The configuration as a whole: nothing was given.
    Unset,
    /// The built-in default.
    Default,
    /// A line of the configuration file.
    File {
        /// Name of the file as it was given.
        name: String,
        /// Line, counted from 1; 0 for the file as a whole.
        line: usize,
    },
    /// An environment variable.
    Environment(&'static str),
    /// An option of the command line.
    CommandLine,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unset => f.write_str("not set"),
            Self::Default => f.write_str("default"),
            Self::File { name, line: 0 } => f.write_str(name),
            Self::File { name, line } => write!(f, "{name}:{line}"),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::CommandLine => f.write_str("command line"),
        }
    }
}

/// One thing that is wrong. Never holds the value of a secret setting.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Where.
    pub origin: Origin,
    /// Dotted key of the setting; empty where the problem is not one of a setting.
    pub key: String,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

impl fmt::Display for Problem {
    /// `file:line: key: what is wrong; remedy`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Origin::Unset => f.write_str("configuration: ")?,
            origin => write!(f, "{origin}: ")?,
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        write!(f, "{}; {}", self.what, self.remedy)
    }
}

/// Everything that is wrong with a configuration; never empty when it is returned as an error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// Notes a problem.
    pub fn add(&mut self, origin: &Origin, key: &str, what: impl Into<String>, remedy: impl Into<String>) {
        let (key, what, remedy) = (key.to_owned(), what.into(), remedy.into());
        self.0.push(Problem { origin: origin.clone(), key, what, remedy });
    }

    /// The result of a configuration that was built while noting problems: `Ok` only where there are none.
    pub fn or<T>(mut self, built: Option<T>) -> Result<T, Self> {
        match built {
            Some(built) if self.0.is_empty() => Ok(built),
            _ => {
                self.0.sort();
                Err(self)
            }
        }
    }
}

impl fmt::Display for Problems {
    /// One line for each problem.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
