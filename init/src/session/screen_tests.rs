//! What the screen model promises, judged by tmux and by itself.

use super::corpus::CASES;
use super::oracle::Tmux;
use super::screen::Screen;

fn fed(cols: u16, rows: u16, bytes: &[u8]) -> Screen {
    let mut screen = Screen::new(cols, rows);
    screen.feed(bytes);
    assert_eq!(screen.panics(), 0, "the model panicked");
    screen
}

/// Detach and reattach at any of these points is invisible: tmux shows, and remembers, the same
/// whether it was given the stream or a snapshot, and goes on the same from there.
#[test]
fn tmux_cannot_tell_a_snapshot_from_the_stream() {
    let mut tmux = match Tmux::start() {
        Ok(tmux) => tmux,
        Err(reason) => return eprintln!("skipped: {reason}"),
    };
    let mut wrong = Vec::new();
    for case in CASES {
        let (cols, rows, before) = (case.cols, case.rows, case.before.as_bytes());
        let snapshot = fed(cols, rows, before).snapshot();
        for after in ["", case.after] {
            let want = tmux.show(cols, rows, &[before, after.as_bytes()].concat());
            let got = tmux.show(cols, rows, &[&snapshot, after.as_bytes()].concat());
            if want != got {
                wrong.push(case.name);
                eprintln!("--- {}, after {after:?}\nwant {want:#?}\n got {got:#?}", case.name);
                eprintln!("by {:?}", String::from_utf8_lossy(&snapshot));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {}: {wrong:?}", wrong.len(), 2 * CASES.len());
}
