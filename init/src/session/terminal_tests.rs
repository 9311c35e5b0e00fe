//! What viewers are told, in which order, and who may type.

use agent_protocol::{
    exit::{ExitRecord, How, KilledBy},
    message::{AttachFrom, AttachRequest, LeaseAction, LeaseWish, Next, SessionId, TerminalSize},
};

use super::terminal::{Cursor, Notice, Step, Terminal};

const SIZE: TerminalSize = TerminalSize { columns: 80, rows: 24 };

fn request(lease: LeaseWish, from: AttachFrom) -> AttachRequest {
    AttachRequest { lease, size: None, from }
}

fn exit(code: i32) -> ExitRecord {
    ExitRecord {
        how: How::Code(code),
        core_dumped: false,
        killed_by: KilledBy::Itself,
        limit: None,
        output_truncated: false,
        ran_ms: 0,
        at_unix_ms: 0,
    }
}

/// Everything a viewer would be sent now: bytes joined, pictures and notices in their places.
fn all(terminal: &mut Terminal, cursor: &mut Cursor) -> Vec<String> {
    let mut told: Vec<String> = Vec::new();
    loop {
        let mut bytes = Vec::new();
        match terminal.step(cursor, 1000, &mut bytes) {
            Step::Wait => return told,
            Step::Bytes { .. } => {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                match told.last_mut().filter(|last| last.starts_with("bytes ")) {
                    Some(last) => last.push_str(&text),
                    None => told.push(format!("bytes {text}")),
                }
            }
            Step::Picture { offset, .. } => told.push(format!("picture at {offset}")),
            Step::Skipped { offset } => told.push(format!("skipped to {offset}")),
            Step::Notice(Notice::Ended(ended)) => told.push(format!("ended {:?}", ended.exit.how)),
            Step::Notice(Notice::Started(started)) => told.push(format!("started {}", started.session.0)),
            Step::Notice(Notice::Lease(holder)) => told.push(format!("lease {:?}", holder.map(|id| id.0))),
            Step::Notice(Notice::Resized(size)) => told.push(format!("{}x{}", size.columns, size.rows)),
        }
    }
}

fn started(terminal: &mut Terminal) -> SessionId {
    let session = terminal.next_session();
    terminal.started(session, 2);
    session
}

#[test]
fn a_viewer_begins_with_a_picture_and_goes_on_with_bytes() {
    let mut terminal = Terminal::new(SIZE);
    started(&mut terminal);
    terminal.output(b"before");
    let (mut cursor, attached) = terminal.attach(&request(LeaseWish::Watch, AttachFrom::Screen)).unwrap();
    assert_eq!(attached.session, Some(SessionId(1)));
    assert_eq!(all(&mut terminal, &mut cursor), ["picture at 6"]);
    terminal.output(b" after");
    assert_eq!(all(&mut terminal, &mut cursor), ["bytes  after"]);
}

#[test]
fn an_exit_comes_behind_the_last_byte_and_before_the_next_run() {
    let mut terminal = Terminal::new(SIZE);
    started(&mut terminal);
    let (mut cursor, _) = terminal.attach(&request(LeaseWish::Watch, AttachFrom::Screen)).unwrap();
    all(&mut terminal, &mut cursor);
    terminal.output(b"last words");
    terminal.ended(exit(3), Next::Restart { delay_ms: 5 });
    started(&mut terminal);
    terminal.output(b"again");
    // The picture is what is new: modes that the first program left are gone.
    let told = all(&mut terminal, &mut cursor);
    assert_eq!(told, ["bytes last words", "ended Code(3)", "picture at 15", "started 2", "picture at 15"]);
}

#[test]
fn who_comes_behind_an_exit_reads_why_and_a_new_program_begins_below() {
    let mut terminal = Terminal::new(TerminalSize { columns: 60, rows: 5 });
    started(&mut terminal);
    terminal.output(b"\x1b[?1049h\x1b[2;3r\x1b[?25lfull screen");
    terminal.ended(exit(3), Next::Restart { delay_ms: 5 });
    terminal.output(b"again\r\nfull\r\nthe end");
    terminal.ended(exit(4), Next::Parked { reason: "th\x1bree".into() });
    assert_eq!(
        terminal.text(),
        ["again", "full", "the end", "[agent exited with code 4; parked: three]", ""]
    );
}

#[test]
fn a_viewer_of_bytes_becomes_one_with_a_screen_when_it_asks_for_a_picture() {
    let mut terminal = Terminal::new(SIZE);
    let from_start = AttachRequest { size: Some(SIZE), ..request(LeaseWish::IfFree, AttachFrom::Offset(0)) };
    let (mut cursor, attached) = terminal.attach(&from_start).unwrap();
    terminal.output(b"bytes");
    assert_eq!(all(&mut terminal, &mut cursor), ["lease Some(1)", "bytes bytes"]);
    terminal.viewer_resized(attached.viewer, TerminalSize { columns: 90, rows: 24 });
    assert_eq!(all(&mut terminal, &mut cursor), ["90x24"]);
    terminal.viewer_resized(attached.viewer, TerminalSize { columns: 90, rows: 24 });
    assert_eq!(all(&mut terminal, &mut cursor), ["picture at 5"]);
    terminal.viewer_resized(attached.viewer, SIZE);
    assert_eq!(all(&mut terminal, &mut cursor), ["picture at 5", "80x24"]);
}

#[test]
fn a_slow_viewer_is_repainted_and_holds_up_nobody() {
    let mut terminal = Terminal::new(SIZE);
    started(&mut terminal);
    let (mut slow, _) = terminal.attach(&request(LeaseWish::Watch, AttachFrom::Screen)).unwrap();
    let (mut quick, _) = terminal.attach(&request(LeaseWish::Watch, AttachFrom::Screen)).unwrap();
    all(&mut terminal, &mut slow);
    all(&mut terminal, &mut quick);
    for _ in 0..300 {
        terminal.output(&[b'x'; 1024]);
        assert!(all(&mut terminal, &mut quick)[0].starts_with("bytes "));
    }
    assert_eq!(all(&mut terminal, &mut slow), [format!("picture at {}", 300 * 1024)]);
}

#[test]
fn a_viewer_of_bytes_is_told_what_it_missed() {
    let mut terminal = Terminal::new(SIZE);
    started(&mut terminal);
    let from = AttachFrom::Offset(0);
    let (mut cursor, _) = terminal.attach(&request(LeaseWish::Watch, from)).unwrap();
    terminal.output(&vec![b'x'; 1024 * 1024 + 10]);
    let told = all(&mut terminal, &mut cursor);
    assert_eq!(told[0], "skipped to 10");
    assert_eq!(told.last().unwrap().len(), "bytes ".len() + 1024 * 1024);
}

#[test]
fn a_viewer_of_bytes_that_comes_late_still_learns_of_the_exit() {
    let mut terminal = Terminal::new(SIZE);
    started(&mut terminal);
    terminal.output(b"all");
    terminal.ended(exit(0), Next::End);
    let (mut cursor, _) = terminal.attach(&request(LeaseWish::Watch, AttachFrom::Offset(0))).unwrap();
    assert_eq!(all(&mut terminal, &mut cursor), ["started 1", "bytes all", "ended Code(0)"]);
}

#[test]
fn one_types_and_the_lease_is_taken_over_and_handed_on() {
    let mut terminal = Terminal::new(SIZE);
    let wants =
        |terminal: &mut Terminal, wish| terminal.attach(&request(wish, AttachFrom::Screen)).unwrap().1;
    let first = wants(&mut terminal, LeaseWish::IfFree);
    let second = wants(&mut terminal, LeaseWish::IfFree);
    let watcher = wants(&mut terminal, LeaseWish::Watch);
    assert!(first.lease.yours && !second.lease.yours && !watcher.lease.yours);

    terminal.change_lease(second.viewer, LeaseAction::HandOn);
    assert_eq!(terminal.lease(), Some(first.viewer), "only the holder can give it away");
    terminal.change_lease(second.viewer, LeaseAction::TakeOver);
    assert_eq!(terminal.lease(), Some(second.viewer));
    terminal.change_lease(second.viewer, LeaseAction::HandOn);
    assert_eq!(terminal.lease(), Some(first.viewer));
    terminal.change_lease(first.viewer, LeaseAction::HandTo(watcher.viewer));
    assert_eq!(terminal.lease(), Some(watcher.viewer));
    terminal.detach(watcher.viewer);
    assert_eq!(terminal.lease(), Some(first.viewer), "the one that has waited longest");
    terminal.detach(first.viewer);
    assert_eq!(terminal.lease(), None, "the second gave it up");
}

#[test]
fn the_size_is_that_of_who_may_type() {
    let mut terminal = Terminal::new(SIZE);
    let sized = |columns, rows, lease| AttachRequest {
        lease,
        size: Some(TerminalSize { columns, rows }),
        from: AttachFrom::Screen,
    };
    let (_, first) = terminal.attach(&sized(100, 30, LeaseWish::IfFree)).unwrap();
    assert_eq!(first.size, TerminalSize { columns: 100, rows: 30 });
    let (_, second) = terminal.attach(&sized(0, 0, LeaseWish::IfFree)).unwrap();
    assert_eq!(second.size, first.size);
    terminal.viewer_resized(second.viewer, TerminalSize { columns: 70, rows: 0 });
    assert_eq!(terminal.size(), first.size);
    terminal.detach(first.viewer);
    assert_eq!(terminal.size(), TerminalSize { columns: 70, rows: 1 });
    terminal.viewer_resized(second.viewer, TerminalSize { columns: u16::MAX, rows: u16::MAX });
    assert!(terminal.size().columns <= 1000 && terminal.size().rows <= 500);
}

#[test]
fn a_viewer_that_says_its_size_again_is_painted_anew() {
    let mut terminal = Terminal::new(SIZE);
    let (mut cursor, attached) = terminal.attach(&request(LeaseWish::Watch, AttachFrom::Screen)).unwrap();
    all(&mut terminal, &mut cursor);
    terminal.viewer_resized(attached.viewer, SIZE);
    assert_eq!(all(&mut terminal, &mut cursor), ["picture at 0"]);
    assert!(all(&mut terminal, &mut cursor).is_empty());
}

#[test]
fn a_viewer_of_another_size_gets_pictures_alone() {
    let mut terminal = Terminal::new(SIZE);
    let sized = |columns, rows| AttachRequest {
        size: Some(TerminalSize { columns, rows }),
        ..request(LeaseWish::IfFree, AttachFrom::Screen)
    };
    let (mut holder, _) = terminal.attach(&sized(80, 24)).unwrap();
    let (mut other, attached) = terminal.attach(&sized(70, 30)).unwrap();
    all(&mut terminal, &mut holder);
    all(&mut terminal, &mut other);
    terminal.output(b"new");
    assert_eq!(all(&mut terminal, &mut holder), ["bytes new"]);
    assert_eq!(all(&mut terminal, &mut other), ["picture at 3"]);
    // With the lease its size is the agent's, and the other one's is not.
    terminal.change_lease(attached.viewer, LeaseAction::TakeOver);
    assert_eq!(all(&mut terminal, &mut other), ["picture at 3", "lease Some(2)", "70x30"]);
    terminal.output(b" and on");
    assert_eq!(all(&mut terminal, &mut other), ["bytes  and on"]);
    assert_eq!(all(&mut terminal, &mut holder), ["picture at 10", "lease Some(2)", "70x30", "picture at 10"]);
    terminal.viewer_resized(attached.viewer, TerminalSize { columns: 60, rows: 30 });
    assert_eq!(all(&mut terminal, &mut holder), ["60x30", "picture at 10"]);
}

#[test]
fn viewers_are_bounded_and_a_place_becomes_free_again() {
    let mut terminal = Terminal::new(SIZE);
    let watch = request(LeaseWish::Watch, AttachFrom::Screen);
    let viewers: Vec<_> =
        (0..super::terminal::MAX_VIEWERS).map(|_| terminal.attach(&watch).unwrap().1.viewer).collect();
    assert!(terminal.attach(&watch).is_none());
    terminal.detach(viewers[5]);
    assert!(terminal.attach(&watch).is_some());
}

#[test]
fn questions_in_the_output_are_answered_only_where_nobody_else_does() {
    let mut terminal = Terminal::new(SIZE);
    terminal.output(b"\x1b[6n");
    assert_eq!(terminal.take_replies(), b"\x1b[1;1R");
    let pipe = terminal.attach(&request(LeaseWish::IfFree, AttachFrom::Offset(0))).unwrap().1;
    terminal.output(b"\x1b[6n");
    assert_eq!(terminal.take_replies(), b"\x1b[1;1R", "a pipe answers nothing");
    terminal.detach(pipe.viewer);
    let with_terminal = AttachRequest { size: Some(SIZE), ..request(LeaseWish::IfFree, AttachFrom::Screen) };
    terminal.attach(&with_terminal).unwrap();
    terminal.output(b"\x1b[6n");
    assert_eq!(terminal.take_replies(), b"", "the viewer's own terminal answers");
}
