//! Failures of hooks, the programs of `[[on-change]]`.

use std::io;

/// A failure of one hook. The words of its program are shown as they are, with control characters
/// escaped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HookError {
    /// The program cannot be started.
    #[error("hook {rule}: cannot run {program}: {source}")]
    NotRun {
        /// The place of the table, `images.toml:12`.
        rule: String,
        /// The program.
        program: String,
        /// The system's words.
        source: io::Error,
    },
    /// The program failed.
    #[error("hook {rule}: {program} failed: {status}{}", said(.words))]
    Failed {
        /// The place of the table.
        rule: String,
        /// The program.
        program: String,
        /// The way in which it ended: `exit status: 1`.
        status: String,
        /// The exit code; `None` where a signal ended the program.
        exit_code: Option<i32>,
        /// The last lines that it wrote to stderr, escaped; may be empty.
        words: String,
    },
    /// The program did not end in its time, and was killed.
    #[error("hook {rule}: {program} was killed: it did not end within {}{}", time(*.seconds), said(.words))]
    TooSlow {
        /// The place of the table.
        rule: String,
        /// The program.
        program: String,
        /// The time that it had, in seconds.
        seconds: u64,
        /// The last lines that it wrote to stderr, escaped; may be empty.
        words: String,
    },
    /// The run was stopped while the program was at work.
    #[error("hook {rule}: {program} was stopped")]
    Stopped {
        /// The place of the table.
        rule: String,
        /// The program.
        program: String,
    },
}

fn said(words: &str) -> String {
    if words.is_empty() { String::new() } else { format!(": {words}") }
}

fn time(seconds: u64) -> String {
    if seconds == 1 { "a second".to_owned() } else { format!("{seconds} seconds") }
}

impl HookError {
    /// True if the hook has done all that it is going to do for the changes that it was told of.
    pub(crate) fn is_final(&self) -> bool {
        matches!(self, Self::Failed { .. } | Self::TooSlow { .. })
    }

    /// The exit code of the program, if it ended by itself.
    pub fn exit_code(&self) -> Option<i32> {
        if let Self::Failed { exit_code, .. } = self { *exit_code } else { None }
    }

    /// See [`Error::kind`](super::Error::kind).
    pub fn kind(&self) -> &'static str {
        "hook"
    }

    /// See [`Error::hint`](super::Error::hint).
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotRun { .. } => {
                Some("the images are as they should be; the next run with --hooks tries it again".to_owned())
            }
            Self::Failed { .. } => Some(
                "the images are as they should be, and it is not run again for these changes: see to what it \
                 does by hand"
                    .to_owned(),
            ),
            Self::TooSlow { .. } => Some(
                "give it a longer `timeout`; it is not run again for these changes: see to what it does by hand"
                    .to_owned(),
            ),
            Self::Stopped { .. } => None,
        }
    }
}
