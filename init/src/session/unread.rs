//! Whether output was thrown away before anybody who keeps it had read it.
//!
//! A ring forgets its oldest bytes, whoever waits for them. The monitor reads along and writes them down, so that
//! nothing is lost to the ring; where it is stopped, gone or too slow, the exit of the run must say so.

/// How far the output of one run was read, and whether any of it was lost unread.
#[derive(Debug, Default)]
pub(crate) struct Unread {
    read_to: u64,
    lost: bool,
}

impl Unread {
    /// A new run begins at this offset; what is before it is not its own.
    pub(crate) fn begin(&mut self, offset: u64) {
        self.read_to = self.read_to.max(offset);
        self.lost = false;
    }

    /// A reader of the log has everything before this offset.
    pub(crate) fn read_to(&mut self, offset: u64) {
        self.read_to = self.read_to.max(offset);
    }

    /// From now on the kept bytes begin here.
    pub(crate) fn kept_from(&mut self, start: u64) {
        self.lost |= start > self.read_to;
    }

    /// Whether bytes of this run were lost unread.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_not_read_is_lost() {
        let mut unread = Unread::default();
        unread.begin(0);
        unread.kept_from(0);
        assert!(!unread.is_lost(), "nothing was forgotten");
        unread.read_to(100);
        unread.kept_from(100);
        assert!(!unread.is_lost(), "everything forgotten was read");
        unread.kept_from(101);
        assert!(unread.is_lost());
        unread.read_to(200);
        assert!(unread.is_lost(), "reading on does not bring it back");
    }

    #[test]
    fn a_new_run_is_not_blamed_for_the_one_before() {
        let mut unread = Unread::default();
        unread.begin(0);
        unread.kept_from(1);
        unread.begin(50);
        unread.kept_from(40);
        assert!(!unread.is_lost());
        unread.kept_from(51);
        assert!(unread.is_lost());
    }

    #[test]
    fn readers_do_not_take_back_what_others_read() {
        let mut unread = Unread::default();
        unread.read_to(10);
        unread.read_to(5);
        unread.kept_from(10);
        assert!(!unread.is_lost());
    }
}
