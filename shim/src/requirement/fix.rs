//! What to do about something that is missing.

use std::fmt;

use serde::Serialize;

/// What to do, in words and in steps that can be copied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fix {
    /// In words.
    pub summary: String,
    /// In this order.
    pub steps: Vec<Step>,
    /// What else there is to know.
    pub note: Option<String>,
}

/// One step of a fix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Step {
    /// A command for a shell.
    Run {
        /// As it is typed.
        command: String,
    },
    /// A line for a configuration file.
    Write {
        /// The line.
        line: String,
        /// The file.
        file: String,
    },
}

impl Fix {
    /// One without steps.
    pub(super) fn said(summary: impl Into<String>) -> Fix {
        Fix { summary: summary.into(), steps: Vec::new(), note: None }
    }

    /// One more command. `{sudo}` in it is `sudo ` for whoever needs it.
    pub(super) fn run(mut self, sudo: bool, command: &str) -> Fix {
        let command = command.replace("{sudo}", if sudo { "sudo " } else { "" });
        self.steps.push(Step::Run { command });
        self
    }

    /// One more line for a file.
    pub(super) fn write(mut self, line: &str, file: &str) -> Fix {
        self.steps.push(Step::Write { line: line.to_owned(), file: file.to_owned() });
        self
    }

    /// What else there is to know.
    pub(super) fn note(mut self, note: &str) -> Fix {
        self.note = Some(note.to_owned());
        self
    }
}

/// On one line, commands and lines in backticks.
impl fmt::Display for Fix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.summary)?;
        for (index, step) in self.steps.iter().enumerate() {
            f.write_str(if index == 0 { ": " } else { ", then " })?;
            match step {
                Step::Run { command } => write!(f, "`{command}`")?,
                Step::Write { line, file } => write!(f, "put `{line}` into {file}")?,
            }
        }
        self.note.iter().try_for_each(|note| write!(f, "; {note}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fix_is_one_line_too() {
        let fix = Fix::said("do this")
            .run(true, "{sudo}a | {sudo}tee b")
            .write("x = 1;", "/etc/y")
            .note("z needs none");
        assert_eq!(
            fix.to_string(),
            "do this: `sudo a | sudo tee b`, then put `x = 1;` into /etc/y; z needs none"
        );
        assert_eq!(Fix::said("do").run(false, "{sudo}a").to_string(), "do: `a`");
        assert_eq!(Fix::said("do").to_string(), "do");
    }
}
