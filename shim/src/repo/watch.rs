//! Who is told how a pull goes, and who may call it off.

use std::fmt;

use crate::client::interrupt::Interrupt;

/// Somebody who watches, or nobody.
#[derive(Clone, Copy, Default)]
pub struct Watch<'a> {
    /// Calls it off.
    pub interrupt: Option<&'a Interrupt>,
    /// Is told how it goes, often.
    pub progress: Option<&'a dyn Fn(Progress)>,
}

/// Where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Objects come.
    Receiving {
        /// All of them.
        objects: u32,
        /// Bytes so far.
        bytes: u64,
    },
    /// They are checked.
    Checking {
        /// All of them.
        objects: u32,
    },
}

impl Watch<'_> {
    /// Whether it was called off.
    pub(crate) fn is_called_off(&self) -> bool {
        self.interrupt.is_some_and(Interrupt::is_set)
    }

    pub(crate) fn tell(&self, progress: Progress) {
        if let Some(watcher) = self.progress {
            watcher(progress);
        }
    }
}

impl fmt::Debug for Watch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("interrupt", &self.interrupt).finish_non_exhaustive()
    }
}
