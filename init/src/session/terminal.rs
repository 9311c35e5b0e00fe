//! The agent's terminal: what it showed, what it shows now, and who may type.
//!
//! It outlives the programs that run on it: a restarted agent gets a new pseudoterminal, viewers stay.
//! Nothing here does I/O or waits. Each viewer has a [`Cursor`] and asks what comes next for it, so a slow
//! one lags alone: once it is too far behind it is given a picture of the screen instead of the bytes.

use std::{
    collections::{BTreeMap, VecDeque},
    rc::Rc,
};

use agent_protocol::{
    exit::ExitRecord,
    message::{
        AttachFrom, AttachRequest, Attached, Lease, LeaseAction, LeaseWish, Next, SessionEnded, SessionId,
        SessionStarted, TerminalSize, ViewerId,
    },
};
use tokio::sync::Notify;

use super::{
    ring::Ring,
    screen::{MAX_COLS, MAX_ROWS, Screen},
    unread::Unread,
};

/// Output kept for logs, late viewers and resumed streams.
const RING_BYTES: usize = 1024 * 1024;

/// A viewer with a screen that is further behind than this is repainted: nobody reads that much that late.
const REPAINT_BEHIND: u64 = 256 * 1024;

/// Notices kept. A viewer that misses one learns the present state from the next.
const KEPT_NOTICES: usize = 64;

/// Brings the picture back to the modes of a fresh terminal, as after a login: cancel an open sequence, reset
/// softly, leave the alternate screen, switch off reports that a shell would type.
const PROGRAM_OVER: &[u8] =
    b"\x18\x1b[!p\x1b[?1049l\x1b[?9;1000;1002;1003;1004;1005;1006;1015;2004l\x1b[?7;25h\x1b[r\x1b[0m\x1b(B\x0f";

/// Viewers at most.
pub(crate) const MAX_VIEWERS: usize = 128;

/// Something about the terminal that viewers are told, in its place between the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// Who may type has changed.
    Lease(Option<ViewerId>),
    /// The size has changed.
    Resized(TerminalSize),
    /// The program ended.
    Ended(Box<SessionEnded>),
    /// A new one runs.
    Started(SessionStarted),
}

/// How far a viewer has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    viewer: ViewerId,
    offset: u64,
    notice: u64,
    style: Style,
    repaint: bool,
    /// The viewer's terminal had the agent's size when it was painted last.
    fits: bool,
}

/// What a viewer can make of a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    /// It has a screen that can be painted anew.
    Screen,
    /// It collects bytes and is told how many are missing.
    Bytes,
}

/// What comes next for a viewer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Tell it this.
    Notice(Notice),
    /// The bytes at `offset` are in the buffer that was handed in.
    Bytes { offset: u64 },
    /// Paint this, then go on at `offset`.
    Picture {
        offset: u64,
        picture: Vec<u8>,
        size: TerminalSize,
        /// It is an excerpt for a terminal of another size, and so is all that comes until that changes.
        excerpt: bool,
    },
    /// The bytes up to `offset` are gone.
    Skipped { offset: u64 },
    /// Nothing, until something changes.
    Wait,
}

struct Viewer {
    wants_to_type: bool,
    size: Option<TerminalSize>,
    repaint: Repaint,
}

/// Whether a viewer has said its size since it was told something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Repaint {
    #[default]
    No,
    /// A new one: whatever was on its own terminal may be gone.
    Resized,
    /// The same again, to ask for a picture. From then on it has a screen, even if it began with bytes.
    Asked,
}

/// The agent's terminal.
pub(crate) struct Terminal {
    ring: Ring,
    unread: Unread,
    screen: Screen,
    size: TerminalSize,
    session: Option<SessionId>,
    next_session: u64,
    notices: VecDeque<(u64, Notice)>,
    first_notice: u64,
    viewers: BTreeMap<ViewerId, Viewer>,
    next_viewer: u64,
    lease: Option<ViewerId>,
    changed: Rc<Notify>,
}

impl Terminal {
    pub(crate) fn new(size: TerminalSize) -> Self {
        let size = within_bounds(size);
        Self {
            ring: Ring::new(RING_BYTES),
            unread: Unread::default(),
            screen: Screen::new(size.columns, size.rows),
            size,
            session: None,
            next_session: 1,
            notices: VecDeque::new(),
            first_notice: 0,
            viewers: BTreeMap::new(),
            next_viewer: 1,
            lease: None,
            changed: Rc::new(Notify::new()),
        }
    }

    /// Notifies its waiters whenever a viewer may have something to do.
    pub(crate) fn changed(&self) -> Rc<Notify> {
        Rc::clone(&self.changed)
    }

    pub(crate) fn size(&self) -> TerminalSize {
        self.size
    }

    pub(crate) fn session(&self) -> Option<SessionId> {
        self.session
    }

    pub(crate) fn lease(&self) -> Option<ViewerId> {
        self.lease
    }

    pub(crate) fn viewers(&self) -> usize {
        self.viewers.len()
    }

    /// Bytes shown so far.
    pub(crate) fn end(&self) -> u64 {
        self.ring.end()
    }

    /// How often the picture was lost to a fault in the screen model and began anew.
    pub(crate) fn pictures_lost(&self) -> u64 {
        self.screen.panics()
    }

    /// The rows that the picture shows.
    #[cfg(test)]
    pub(crate) fn text(&self) -> Vec<String> {
        self.screen.text()
    }

    /// The kept output, for readers that are no viewers.
    pub(crate) fn ring(&self) -> &Ring {
        &self.ring
    }

    /// What readers of the log have of it.
    pub(crate) fn unread(&mut self) -> &mut Unread {
        &mut self.unread
    }

    /// The program showed these bytes.
    pub(crate) fn output(&mut self, bytes: &[u8]) {
        self.ring.push(bytes);
        self.unread.kept_from(self.ring.start());
        self.screen.feed(bytes);
        self.changed.notify_waiters();
    }

    /// What the terminal itself answers to questions in the output, where no viewer's terminal is there to do it.
    pub(crate) fn take_replies(&mut self) -> Vec<u8> {
        let replies = self.screen.take_replies();
        let holder = self.lease.and_then(|holder| self.viewers.get(&holder));
        // A viewer without a size is a pipe and answers nothing.
        if holder.is_some_and(|holder| holder.size.is_some()) { Vec::new() } else { replies }
    }

    /// The number of the run that is about to start.
    pub(crate) fn next_session(&mut self) -> SessionId {
        let id = SessionId(self.next_session);
        self.next_session += 1;
        id
    }

    /// A new program runs.
    pub(crate) fn started(&mut self, session: SessionId, pid: u32) {
        self.session = Some(session);
        self.unread.begin(self.ring.end());
        self.notice(Notice::Started(SessionStarted { session, pid }));
    }

    /// The program ended. Unless everything ends with it, the picture says so below the last output, so that who
    /// comes later reads it too, and the next program begins below that on a terminal in its default modes.
    pub(crate) fn ended(&mut self, exit: ExitRecord, next: Next) {
        let Some(session) = self.session else { return };
        let ended = SessionEnded { session, exit, next };
        if ended.next != Next::End {
            self.screen.feed(PROGRAM_OVER);
            let rows = self.screen.text();
            let free = rows.iter().rposition(|row| !row.is_empty()).map_or(0, |last| last + 1);
            let scroll = if free == rows.len() { "\n" } else { "" };
            let words: String = ended.to_string().chars().filter(|c| !c.is_control()).collect();
            self.screen.feed(format!("\x1b[{};1H{scroll}[{words}]\r\n", free + 1).as_bytes());
        }
        self.notice(Notice::Ended(Box::new(ended)));
    }

    /// Lets a viewer in. The size that the terminal has to get is in [`Attached::size`].
    pub(crate) fn attach(&mut self, request: &AttachRequest) -> Option<(Cursor, Attached)> {
        if self.viewers.len() >= MAX_VIEWERS {
            return None;
        }
        let viewer = ViewerId(self.next_viewer);
        self.next_viewer += 1;
        let wants_to_type = request.lease != LeaseWish::Watch;
        self.viewers.insert(
            viewer,
            Viewer { wants_to_type, size: request.size.map(within_bounds), repaint: Repaint::No },
        );
        if request.lease == LeaseWish::TakeOver || (wants_to_type && self.lease.is_none()) {
            self.give_lease(Some(viewer));
        }
        let (offset, style) = match request.from {
            AttachFrom::Screen => (self.ring.end(), Style::Screen),
            AttachFrom::Offset(offset) => (offset.min(self.ring.end()), Style::Bytes),
        };
        let notice = match style {
            Style::Screen => self.first_notice + self.notices.len() as u64,
            Style::Bytes => self.first_notice,
        };
        let cursor = Cursor { viewer, offset, notice, style, repaint: style == Style::Screen, fits: true };
        Some((
            cursor,
            Attached { viewer, session: self.session, lease: self.lease_for(viewer), size: self.size },
        ))
    }

    /// A viewer went. Its lease goes to the one that has waited for it longest.
    pub(crate) fn detach(&mut self, viewer: ViewerId) {
        self.viewers.remove(&viewer);
        if self.lease == Some(viewer) {
            self.give_lease(self.heir(viewer));
        }
    }

    /// Does what a viewer asks about the lease. Only who holds it can give it away.
    pub(crate) fn change_lease(&mut self, viewer: ViewerId, action: LeaseAction) {
        let holds = self.lease == Some(viewer);
        match action {
            LeaseAction::TakeOver => {
                if let Some(this) = self.viewers.get_mut(&viewer) {
                    this.wants_to_type = true;
                    self.give_lease(Some(viewer));
                }
            }
            LeaseAction::HandOn if holds => {
                let heir = self.heir(viewer);
                if let Some(this) = self.viewers.get_mut(&viewer) {
                    this.wants_to_type = false;
                }
                self.give_lease(heir);
            }
            LeaseAction::HandTo(heir) if holds && self.viewers.contains_key(&heir) => {
                self.give_lease(Some(heir));
            }
            LeaseAction::HandOn | LeaseAction::HandTo(_) => {}
        }
    }

    /// A viewer's own terminal has this size now; it counts while that viewer may type. A viewer with a screen is
    /// painted anew in every case; it says an unchanged size to ask for that.
    pub(crate) fn viewer_resized(&mut self, viewer: ViewerId, size: TerminalSize) {
        if let Some(this) = self.viewers.get_mut(&viewer) {
            let size = Some(within_bounds(size));
            this.repaint =
                this.repaint.max(if this.size == size { Repaint::Asked } else { Repaint::Resized });
            this.size = size;
        }
        if self.lease == Some(viewer) {
            self.follow_holder();
        }
        self.changed.notify_waiters();
    }

    /// Who may type, as told to this viewer.
    pub(crate) fn lease_for(&self, viewer: ViewerId) -> Lease {
        Lease { holder: self.lease, yours: self.lease == Some(viewer) }
    }

    /// What comes next for the viewer at `cursor`; bytes are appended to `out`, at most `most` of them.
    pub(crate) fn step(&mut self, cursor: &mut Cursor, most: usize, out: &mut Vec<u8>) -> Step {
        let said = self.viewers.get_mut(&cursor.viewer).map(|viewer| std::mem::take(&mut viewer.repaint));
        if said == Some(Repaint::Asked) {
            cursor.style = Style::Screen;
        }
        let said_size = said.is_some_and(|said| said != Repaint::No);
        if cursor.repaint || (said_size && cursor.style == Style::Screen) {
            return self.picture(cursor);
        }
        let fits = self.fits(cursor.viewer);
        if fits != cursor.fits {
            // On a terminal of another size lines fold elsewhere: bytes alone would not show the same.
            cursor.style = Style::Screen;
            return self.picture(cursor);
        }
        let behind = self.ring.end() - cursor.offset;
        let lost = cursor.offset < self.ring.start();
        match cursor.style {
            Style::Screen if lost || behind > REPAINT_BEHIND => return self.picture(cursor),
            Style::Bytes if lost => {
                cursor.offset = self.ring.start();
                return Step::Skipped { offset: cursor.offset };
            }
            Style::Screen | Style::Bytes => {}
        }
        cursor.notice = cursor.notice.max(self.first_notice);
        let place = usize::try_from(cursor.notice - self.first_notice).unwrap_or(usize::MAX);
        let barrier = match self.notices.get(place) {
            Some((at, notice)) if *at <= cursor.offset => {
                cursor.notice += 1;
                // The screen was reset and says why; bytes alone do not tell a viewer so.
                let changed = match notice {
                    Notice::Ended(ended) => ended.next != Next::End,
                    Notice::Started(_) => true,
                    // Who fits asked for the size, and for a picture with it.
                    Notice::Resized(_) => !fits,
                    Notice::Lease(_) => false,
                };
                cursor.repaint = cursor.style == Style::Screen && changed;
                return Step::Notice(notice.clone());
            }
            Some((at, _)) => *at,
            None => self.ring.end(),
        };
        if cursor.offset == barrier {
            return Step::Wait;
        }
        if !fits {
            return self.picture(cursor);
        }
        let most = most.min(usize::try_from(barrier - cursor.offset).unwrap_or(usize::MAX));
        let offset = cursor.offset;
        match self.ring.read_at(offset, out, most) {
            Ok(read) => cursor.offset += read as u64,
            Err(lost) => cursor.offset = lost.start,
        }
        Step::Bytes { offset }
    }

    fn picture(&mut self, cursor: &mut Cursor) -> Step {
        cursor.repaint = false;
        cursor.offset = self.ring.end();
        cursor.fits = self.fits(cursor.viewer);
        let size = self.viewers.get(&cursor.viewer).and_then(|viewer| viewer.size).filter(|_| !cursor.fits);
        let picture = match size {
            None => self.screen.snapshot(),
            Some(TerminalSize { columns, rows }) => self.screen.excerpt(columns, rows),
        };
        Step::Picture { offset: cursor.offset, picture, size: self.size, excerpt: !cursor.fits }
    }

    /// Whether a viewer's terminal has the agent's size. One that never said a size is taken to.
    fn fits(&self, viewer: ViewerId) -> bool {
        let size = self.viewers.get(&viewer).and_then(|viewer| viewer.size);
        size.is_none_or(|size| size == self.size)
    }

    fn heir(&self, viewer: ViewerId) -> Option<ViewerId> {
        self.viewers.iter().find(|(id, other)| **id != viewer && other.wants_to_type).map(|(id, _)| *id)
    }

    fn give_lease(&mut self, holder: Option<ViewerId>) {
        if self.lease != holder {
            self.lease = holder;
            self.notice(Notice::Lease(holder));
        }
        self.follow_holder();
    }

    /// Takes over the size of who may type.
    fn follow_holder(&mut self) {
        let wanted = self.lease.and_then(|holder| self.viewers.get(&holder)?.size);
        if let Some(size) = wanted.filter(|size| *size != self.size) {
            self.size = size;
            self.screen.resize(size.columns, size.rows);
            self.notice(Notice::Resized(size));
        }
    }

    fn notice(&mut self, notice: Notice) {
        if self.notices.len() == KEPT_NOTICES {
            self.notices.pop_front();
            self.first_notice += 1;
        }
        self.notices.push_back((self.ring.end(), notice));
        self.changed.notify_waiters();
    }
}

/// The agent's terminal and the picture of it have the same size, so both keep to what the picture can have.
fn within_bounds(size: TerminalSize) -> TerminalSize {
    TerminalSize { columns: size.columns.clamp(1, MAX_COLS), rows: size.rows.clamp(1, MAX_ROWS) }
}
