//! What the screen model promises, judged by tmux and by itself.

use super::corpus::CASES;
use super::oracle::Tmux;
use super::{MAX_COLS, MAX_ROWS, Screen};
use proptest::prelude::*;
use std::fmt::Write as _;

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

/// Pieces of streams: what programs send, what they should not send, and plain noise. REP stands
/// after a character only: what it repeats is the one thing that is not carried over.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let number = || {
        prop_oneof![
            Just(String::new()),
            (0_u16..12).prop_map(|n| n.to_string()),
            any::<u16>().prop_map(|n| n.to_string())
        ]
    };
    let mode = prop::sample::select(vec![
        1_u16, 4, 5, 6, 7, 9, 12, 20, 25, 45, 47, 66, 69, 1000, 1002, 1003, 1006, 1007, 1047, 1048, 1049,
        2004, 2026,
    ]);
    prop_oneof![
        4 => prop::sample::select(vec!["a", "xyz", "0123456789", " ", "qqxx", "日", "本語", "e\u{301}", "\u{308}", "👩‍👩‍👧", "\u{200b}", "é", "#"])
            .prop_map(|text| text.as_bytes().to_vec()),
        3 => prop::sample::select(b"\r\n\n\x08\t\x0e\x0f\x18\x7f\x0b".to_vec()).prop_map(|byte| vec![byte]),
        6 => (number(), number(), prop::sample::select(b"@ABCDEFGHIJKLMPSTXZ`adefgmnrsu".to_vec()))
            .prop_map(|(a, b, end)| format!("\x1b[{a};{b}{}", end as char).into_bytes()),
        3 => (mode, any::<bool>(), any::<bool>()).prop_map(|(mode, private, on)| {
            format!("\x1b[{}{mode}{}", if private { "?" } else { "" }, if on { "h" } else { "l" }).into_bytes()
        }),
        3 => prop::collection::vec(prop::sample::select(vec![0_u8, 1, 2, 3, 4, 5, 7, 9, 21, 22, 24, 31, 38, 42, 48, 53, 58, 91, 107]), 1..6)
            .prop_map(|codes| format!("\x1b[{}m", codes.iter().map(u8::to_string).collect::<Vec<_>>().join(";")).into_bytes()),
        3 => prop::sample::select(vec![
            "\x1b7", "\x1b8", "\x1bD", "\x1bE", "\x1bM", "\x1bH", "\x1bc", "\x1b=", "\x1b>", "\x1b(0", "\x1b(B", "\x1b)0", "\x1b)A",
            "\x1b#8", "\x1b[!p", "\x1b[5 q", "\x1b[>1u", "\x1b[<u", "\x1b[=3;2u", "\x1b[>4;2m", "\x1b]2;title\x07", "\x1b]8;;x\x1b\\",
            "\x1bPq#0~\x1b\\", "\x1b_Gi=1\x1b\\", "\x1b[", "\x1b]2;cut", "\x1bP1", "\x1b", "\x1b[38;2;1;2;3m", "\x1b[48:2::9:8:7m",
            "\x1b[4:3m", "\x1b[58:5:3m", "\x1b[6n", "x\x1b[3b", "\x1b[c",
        ]).prop_map(|sequence| sequence.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..12),
    ]
}

fn stream(pieces: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(piece(), 0..pieces).prop_map(|pieces| pieces.concat())
}

fn size() -> impl Strategy<Value = (u16, u16)> {
    prop_oneof![(1_u16..6, 1_u16..6), (1_u16..40, 1_u16..12)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// A screen painted by a snapshot, whatever was on it before, is the same screen: it looks the
    /// same, gives the same snapshot, and stays the same under the bytes that follow.
    #[test]
    fn a_snapshot_restores_everything(
        (cols, rows) in size(), before in stream(40), noise in stream(20), after in stream(20),
    ) {
        let mut original = fed(cols, rows, &before);
        let mut copy = fed(cols, rows, &noise);
        // The end of what a viewer's terminal is in the middle of is not the model's business.
        copy.feed(b"\x1b\\");
        copy.forget_what_no_reset_reaches();
        copy.feed(&original.snapshot());
        prop_assert_eq!(copy.panics(), 0);
        prop_assert_eq!(original.text(), copy.text());
        prop_assert_eq!(show(&original.snapshot()), show(&copy.snapshot()));
        original.feed(&after);
        copy.feed(&after);
        prop_assert_eq!(original.text(), copy.text(), "{} + {}", before.escape_ascii(), after.escape_ascii());
        prop_assert_eq!(show(&original.snapshot()), show(&copy.snapshot()));
    }

    /// No stream and no size makes the model panic, and none makes a snapshot unbounded.
    #[test]
    fn nothing_panics(parts in prop::collection::vec((stream(20), (0_u16..30, 0_u16..12)), 1..8)) {
        let mut screen = Screen::new(20, 5);
        for (bytes, (cols, rows)) in parts {
            screen.feed(&bytes);
            screen.resize(cols, rows);
            let (cols, rows) = screen.size();
            prop_assert_eq!(screen.text().len(), usize::from(rows));
            prop_assert!(screen.snapshot().len() <= snapshot_limit(cols, rows));
        }
        prop_assert_eq!(screen.panics(), 0);
    }

    /// How the stream was cut into reads changes nothing.
    #[test]
    fn cuts_do_not_matter((cols, rows) in size(), bytes in stream(30), cuts in prop::collection::vec(1_usize..7, 1..20)) {
        let whole = fed(cols, rows, &bytes);
        let mut cut = Screen::new(cols, rows);
        let (mut rest, mut lengths) = (&bytes[..], cuts.into_iter().cycle());
        while !rest.is_empty() {
            let (now, later) = rest.split_at(lengths.next().unwrap_or(1).min(rest.len()));
            cut.feed(now);
            rest = later;
        }
        prop_assert_eq!(whole.text(), cut.text(), "{}", bytes.escape_ascii());
        prop_assert_eq!(show(&whole.snapshot()), show(&cut.snapshot()));
    }
}

/// A snapshot as text that a failed comparison can print.
fn show(snapshot: &[u8]) -> String {
    String::from_utf8_lossy(snapshot).replace('\x1b', "␛")
}

/// What `docs/terminal.md` promises.
fn snapshot_limit(cols: u16, rows: u16) -> usize {
    2 * usize::from(cols) * usize::from(rows) * 128
        + 2 * usize::from(rows) * 16
        + usize::from(cols) * 9
        + 4096
}

#[test]
fn the_largest_snapshot_is_within_its_limit() {
    let (cols, rows) = (60_u16, 20_u16);
    let mut cells = String::new();
    for n in 0..u32::from(cols) * u32::from(rows) {
        let byte = 100 + n % 150;
        let _ = write!(
            cells,
            "\x1b[0;1;2;3;5;7;8;9;53;4:3;38;2;{byte};{byte};{byte};48;2;{byte};{byte};{byte};58:2::{byte}:{byte}:{byte}m𝕏{}",
            "\u{1d165}".repeat(9)
        );
    }
    let screen = fed(cols, rows, format!("{cells}\x1b[?1049h\x1b[H{cells}").as_bytes());
    let length = screen.snapshot().len();
    assert!(length <= snapshot_limit(cols, rows), "{length} bytes, {}", snapshot_limit(cols, rows));
}

#[test]
fn a_character_may_be_cut_anywhere() {
    let text = "aé日𝕏";
    for at in 0..=text.len() {
        let (before, after) = text.as_bytes().split_at(at);
        let original = fed(20, 2, before);
        let mut copy = fed(20, 2, &original.snapshot());
        copy.feed(after);
        assert_eq!(copy.text()[0], text, "cut at {at}");
    }
}

#[test]
fn a_string_too_long_to_keep_is_swallowed_to_its_end() {
    for (open, end) in
        [("\x1b]52;c;", "\x07"), ("\x1bPq", "\x1b\\"), ("\x1b_G", "\x1b\\"), ("\x1b]2;", "\x1b\\")]
    {
        let original = fed(20, 2, format!("a{open}{}", "x".repeat(100_000)).as_bytes());
        let snapshot = original.snapshot();
        assert!(snapshot.len() < 2000);
        let mut copy = fed(20, 2, &snapshot);
        copy.feed(format!("{}{end}b", "x".repeat(5000)).as_bytes());
        assert_eq!(copy.text()[0], "ab");
        assert_eq!(copy.title(), None);
    }
}

#[test]
fn questions_are_answered_and_answers_are_bounded() {
    let mut screen =
        fed(20, 5, b"\x1b[c\x1b[>c\x1b[5n\x1b[3;4H\x1b[6n\x1b[?6n\x1b[2;4r\x1b[?6h\x1b[2;2H\x1b[6n");
    assert_eq!(
        String::from_utf8(screen.take_replies()).unwrap(),
        "\x1b[?62;22c\x1b[>1;10;0c\x1b[0n\x1b[3;4R\x1b[?3;4R\x1b[2;2R"
    );
    assert!(screen.take_replies().is_empty());
    screen.feed(&b"\x1b[c".repeat(100_000));
    assert!(screen.take_replies().len() <= 1024);
}

#[test]
fn wrapped_text_breaks_anew_at_a_new_width() {
    let mut screen = fed(10, 6, b"0123456789abcdefghij\r\nshort\r\n$ ");
    screen.resize(5, 8);
    assert_eq!(screen.text(), ["01234", "56789", "abcde", "fghij", "short", "$", "", ""]);
    screen.resize(20, 6);
    assert_eq!(screen.text(), ["0123456789abcdefghij", "short", "$", "", "", ""]);
    screen.feed("日x".as_bytes());
    assert_eq!(screen.text()[2], "$ 日x");
    screen.resize(3, 6);
    assert_eq!(screen.text()[3..], ["rt", "$", "日x"]);
    screen.resize(1, 3);
    assert_eq!(screen.text()[2], "x");
}

/// A phone attaches to a session that runs an editor, and leaves again.
#[test]
fn what_lies_under_the_alternate_screen_survives_resizes() {
    let mut screen = fed(20, 5, b"0123456789abcdef\r\n$ vi\r\n\x1b[?1049h\x1b[Heditor");
    screen.resize(8, 4);
    screen.resize(20, 5);
    let mut copy = fed(20, 5, &screen.snapshot());
    for screen in [&mut screen, &mut copy] {
        assert_eq!(screen.text()[0], "editor");
        screen.feed(b"\x1b[?1049l");
        assert_eq!(screen.text()[..2], ["0123456789abcdef", "$ vi"]);
    }
}

#[test]
fn sizes_that_no_terminal_has_are_cut() {
    let mut screen = Screen::new(0, 0);
    assert_eq!(screen.size(), (1, 1));
    screen.resize(u16::MAX, u16::MAX);
    assert_eq!(screen.size(), (MAX_COLS, MAX_ROWS));
}

/// Where terminals agree and tmux 3.3 does not: half a wide character is no character.
#[test]
fn the_rest_of_a_halved_wide_character_is_blank() {
    assert_eq!(fed(20, 1, "日本語\x1b[1;2Hx".as_bytes()).text()[0], " x本語");
    assert_eq!(fed(20, 1, "日本語\x1b[1;4H\x1b[K".as_bytes()).text()[0], "日");
    assert_eq!(fed(20, 1, "日本語\x1b[1;2H\x1b[P".as_bytes()).text()[0], " 本語");
    assert_eq!(fed(1, 3, "a日b".as_bytes()).text(), ["a", "b", ""]);
}

/// Modes that tmux does not report, and does not tell from their defaults.
#[test]
fn modes_for_the_viewers_terminal_are_passed_on() {
    let screen = fed(20, 2, b"\x1b[>1u\x1b[>5u\x1b[?1004h\x1b[?5h\x1b[>4;2m\x1b[4 q\x1b[?1007l\x1b[?2026h");
    let snapshot = show(&screen.snapshot());
    for kept in ["␛[>1u␛[>5u", "␛[?1004h", "␛[?5h", "␛[>4;2m", "␛[4 q", "␛[?1007l"] {
        assert!(snapshot.contains(kept), "{kept} is not in {snapshot}");
    }
    assert!(!snapshot.contains("␛[?2026l"), "the update that the program began goes on");
}

#[test]
fn a_panic_costs_the_picture_and_nothing_else() {
    let mut screen = Screen::new(10, 2);
    screen.feed(b"gone\x1b[?1049h\x1b[3");
    screen.guard(|_| panic!("on purpose"));
    assert_eq!((screen.panics(), screen.size()), (1, (10, 2)));
    screen.feed(b"here");
    assert_eq!(screen.text(), ["here", ""]);
    screen.resize(5, 5);
    assert_eq!((screen.panics(), screen.size()), (1, (5, 5)));
}

/// Sequences on whose meaning tmux agrees with other terminals, in an order nobody planned. `STREAMS` says how
/// many streams; a failure names its seed.
#[test]
fn tmux_agrees_on_arbitrary_streams() {
    const PIECES: &[&str] = &[
        "a",
        "bcd",
        "efghijkl",
        " ",
        "\r",
        "\n",
        "\r\n",
        "\t",
        "\x1b[A",
        "\x1b[2B",
        "\x1b[3C",
        "\x1b[E",
        "\x1b[F",
        "\x1b[4G",
        "\x1b[3d",
        "\x1b[2;3H",
        "\x1b[H",
        "\x1b[4;9H",
        "\x1b[J",
        "\x1b[1J",
        "\x1b[2J",
        "\x1b[K",
        "\x1b[1K",
        "\x1b[2K",
        "\x1b[@",
        "\x1b[2P",
        "\x1b[3X",
        "\x1b[S",
        "\x1b[T",
        "\x1b[2;4r",
        "\x1b[r",
        "\x1bM",
        "\x1bD",
        "\x1bE",
        "\x1b7",
        "\x1b[31m",
        "\x1b[1;4m",
        "\x1b[m",
        "\x1b[38;5;99m",
        "\x1b[?7l",
        "\x1b[?7h",
        "\x1b[4h",
        "\x1b[4l",
        "\x1b[?6l",
        "\x1b(0",
        "\x1b(B",
        "\x1b[?25l",
        "\x1b[?25h",
        "\x1b[g",
        "\x1b[3g",
        "\x1b[?1049h",
    ];
    let mut tmux = match Tmux::start() {
        Ok(tmux) => tmux,
        Err(reason) => return eprintln!("skipped: {reason}"),
    };
    let streams: u64 = std::env::var("STREAMS").ok().and_then(|n| n.parse().ok()).unwrap_or(50);
    let mut wrong = 0;
    for seed in 0..streams {
        let mut state = seed;
        let mut next = |n: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % n
        };
        let stream: String = (0..4 + next(24)).map(|_| PIECES[next(PIECES.len())]).collect();
        let fill = "\x1b[m\x1b(B\x1b[?6l\x1b[4l\x1b[?7h\x1b[1;12H|\x1b[2;12H|\x1b[3;12H|\x1b[4;12H|\x1b[5;12H|\x1b[6;12H|";
        let snapshot = fed(12, 6, stream.as_bytes()).snapshot();
        // What was saved where: the screen below, or else the cursor.
        let back = if stream.contains("1049h") { "\x1b[?1049l" } else { "\x1b8" };
        let after = format!("{back}Z{fill}");
        for after in ["", &after] {
            let want = tmux.show(12, 6, format!("{stream}{after}").as_bytes());
            let got = tmux.show(12, 6, &[&snapshot, after.as_bytes()].concat());
            if want != got {
                wrong += 1;
                eprintln!(
                    "--- seed {seed}: {:?} after {}\nwant {want:#?}\n got {got:#?}",
                    stream,
                    after.len()
                );
            }
        }
    }
    assert_eq!(wrong, 0, "of {streams}");
}
