//! The same program on a terminal of the person's own and through the shim: the same screens, cursors and modes.
//!
//! Live, on a fresh terminal after detaching, and after the client was killed. tmux is the terminal and the judge.

use agent_tests::{Home, Pane, Tmux, Who, quoted, until};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Shows the files of the folder `play` in their order, one more for each key, and says in a file which one it is at.
/// It ends with the last one.
const PLAYER: &str = r"import os, sys, tty, termios
before = termios.tcgetattr(0)
tty.setraw(0)
for name in sorted(os.listdir('play')):
    with open('play/' + name, 'rb') as stage:
        os.write(1, stage.read())
    with open(sys.argv[1], 'w') as at:
        at.write(name)
    os.read(0, 1)
termios.tcsetattr(0, termios.TCSANOW, before)
";

/// What is shown first wherever a case begins: nothing, in the modes of a fresh terminal.
const FRESH: &[u8] = b"\x1b[?1049l\x1bc\x1b[H\x1b[2J";

/// A stream, cut where viewers leave and come; the second part shows what the first one left behind unseen.
struct Case {
    name: &'static str,
    before: String,
    after: &'static str,
}

fn case(name: &'static str, before: impl Into<String>, after: &'static str) -> Case {
    Case { name, before: before.into(), after }
}

fn cases() -> Vec<Case> {
    let table = |columns: usize, cell: &dyn Fn(usize) -> String, count: usize| {
        let rows: Vec<String> = (0..count)
            .map(|at| cell(at) + if at % columns == columns - 1 { "\x1b[m\r\n" } else { "" })
            .collect();
        rows.concat()
    };
    vec![
        case("colours", table(32, &|n| format!("\x1b[48;5;{n}m{n:02x}"), 256), "\x1b[38;5;99mpen\x1b[m"),
        case(
            "truecolor",
            table(64, &|n| format!("\x1b[38;2;{};{};{}m#", n % 256, n / 2 % 256, 255 - n % 256), 64 * 16),
            "x",
        ),
        case(
            "attributes",
            "\x1b[1mbold\x1b[2mdim\x1b[3mitalic\x1b[4munder\x1b[4:3mcurly\x1b[58:5:9mred\x1b[7minverse\x1b[9mstruck\x1b[0m\
             \x1b[44m blue\x1b[K\r\n\x1b[m.",
            "x",
        ),
        case(
            "wide",
            "日本語 한글 字\r\ne\u{301}a\u{308}o\u{302}\u{323}\r\n👍🚀 x\r\n\x1b[5;79H字\x1b[6;80H字|",
            "か\u{3099}",
        ),
        case("line drawing", "\x1b(0lqqqqk\r\nx    x\r\nmqqqqj\x1b(B ascii \x1b)0\x0eqqq", "qqq\x0fq"),
        case("tab stops", "\x1b[3g\x1b[1;5H\x1bH\x1b[1;20H\x1bH\x1b[1;41H\x1bH\x1b[g\r", "a\tb\tc\td"),
        case("autowrap off", format!("\x1b[?7l{}", "0123456789".repeat(10)), "z\r\nsecond"),
        case("wrap pending", "0123456789".repeat(8), "next"),
        case("wrapped lines", "0123456789".repeat(25), "\r\nnext"),
        case("insert and origin", "abcdef\x1b[4;10r\x1b[?6h\x1b[2;3Hin\x1b[4h\x1b[2;3H", "XY\x1b[99;1Hlast"),
        case("scroll region", "1\r\n2\r\n3\r\n4\r\n5\r\n6\x1b[2;5r\x1b[5;1H", "\na\nb\x1b[2;1H\x1bMc"),
        case("keys and mouse", "\x1b[?1h\x1b=\x1b[?1002h\x1b[?1006h", "\x1b[?1l\x1b>x\x1b[?1002l"),
        case("mouse motion", "\x1b[?1003h\x1b[?1005hx", "y"),
        case("cursor hidden", "\x1b[3;9Hhidden\x1b[?25l", "x"),
        case("saved cursor", "\x1b[5;9H\x1b[35m\x1b7\x1b[m\x1b[Hhome", "\x1b8there"),
        case(
            "alternate",
            "\x1b[32mbelow\x1b[1m it\r\nsecond row\x1b[?1049h\x1b[m\x1b[H\x1b[44mabove\x1b[J\x1b[3;10r\x1b[?25l\x1b[?1h",
            "\x1b[r\x1b[?25h\x1b[?1l\x1b[m\x1b[?1049l and on",
        ),
        case("alternate, to stay", "below\x1b[?1049h\x1b[2J\x1b[7;7Habove", " more"),
        case("erased in colour", "text\x1b[41m\x1b[2J\x1b[2;3H\x1b[44m\x1b[K\x1b[9;79H\x1b[m.", "x"),
        case(
            "edits",
            "12345678\r\nabcdefgh\r\nABCDEFGH\x1b[2;3H\x1b[2@\x1b[1;4H\x1b[3P\x1b[2L\x1b[4;2H\x1b[3X",
            "\x1b[M",
        ),
        case("title", "\x1b]2;the agent's title\x1b\\x", "y"),
        case("cut in a sequence", "a\x1b[3", "1mred"),
        case("cut in a title", "a\x1b]2;half", " of it\x07b"),
    ]
}

/// A direct pane and one with the shim, both running the player with these stages.
fn play<'a>(
    tmux: &'a Tmux,
    home: &Home,
    stages: &[Vec<u8>],
    size: (u16, u16),
) -> anyhow::Result<(Pane<'a>, Pane<'a>)> {
    let project = home.project("project")?;
    home.project("project/play")?;
    for (at, stage) in stages.iter().enumerate() {
        home.file(&format!("project/play/{at:03}"), stage)?;
    }
    home.file("project/player.py", PLAYER.as_bytes())?;
    let direct = tmux.pane(home, size.0, size.1)?;
    let through = tmux.pane(home, size.0, size.1)?;
    direct.line("/usr/bin/python3 player.py direct")?;
    through.line(&format!(
        "agent-shim run --name play --env host {} -- /usr/bin/python3 player.py through",
        quoted(&project.to_string_lossy())
    ))?;
    Ok((direct, through))
}

fn attach<'a>(tmux: &'a Tmux, home: &Home, size: (u16, u16)) -> anyhow::Result<Pane<'a>> {
    let pane = tmux.pane(home, size.0, size.1)?;
    pane.line("agent-shim attach play")?;
    Ok(pane)
}

/// The person leaves by the keys, or their client is killed.
fn leave(pane: Pane<'_>, killed: bool) -> anyhow::Result<()> {
    if killed {
        kill(Pid::from_raw(pane.client()?), Signal::SIGKILL)?;
    } else {
        pane.keys("\x1dd")?;
    }
    until("the client to leave", || Ok(pane.children()?.is_empty().then_some(())))?;
    pane.close()
}

#[test]
fn streams_show_the_same_live_after_detach_and_after_the_client_was_killed() -> anyhow::Result<()> {
    let Some(tmux) = Tmux::start()? else { return Ok(()) };
    let home = Home::new(Who::Myself)?;
    let destroyed = Destroyed(&home);
    let cases = cases();
    let mut stages = Vec::new();
    for case in &cases {
        stages.push([FRESH, case.before.as_bytes()].concat());
        stages.push(case.after.as_bytes().to_vec());
    }
    let size = (80, 24);
    let (direct, mut through) = play(&tmux, &home, &stages, size)?;
    // A key is typed for the next stage only when both have come to this one.
    let project = home.project("project")?;
    let come = |stage: usize| {
        let stage = format!("{stage:03}");
        until(&format!("stage {stage}"), || {
            let at = |name: &str| std::fs::read_to_string(project.join(name)).unwrap_or_default();
            Ok((at("direct") == stage && at("through") == stage).then_some(()))
        })
    };
    let mut wrong = Vec::new();
    for (at, case) in cases.iter().enumerate() {
        // More would take long and tell nothing new.
        if wrong.len() > 3 {
            break;
        }
        let mut check = |what: &str, pane: &Pane<'_>| {
            if let Err(error) = pane.equals(&direct) {
                wrong.push(format!("{}, {what}: {error:#}", case.name));
            }
        };
        come(2 * at)?;
        check("live", &through);
        leave(through, at % 2 == 0)?;
        through = attach(&tmux, &home, size)?;
        check("attached again", &through);
        direct.keys("k")?;
        through.keys("k")?;
        come(2 * at + 1)?;
        check("afterwards", &through);
        if case.name == "title" {
            assert_eq!(through.shown()?.title, "the agent's title");
        }
        direct.keys("k")?;
        through.keys("k")?;
    }
    drop(destroyed);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// Runs a script on a terminal of the person's own and through the shim.
fn both<'a>(
    tmux: &'a Tmux,
    home: &Home,
    script: &str,
    size: (u16, u16),
) -> anyhow::Result<(Pane<'a>, Pane<'a>)> {
    home.file("project/script.sh", script.as_bytes())?;
    let direct = tmux.pane(home, size.0, size.1)?;
    let through = tmux.pane(home, size.0, size.1)?;
    direct.line("sh script.sh")?;
    through.line("agent-shim run --name play --env host . -- sh script.sh")?;
    Ok((direct, through))
}

/// Lines of text with their numbers.
fn numbered(lines: usize, text: &str) -> String {
    (1..lines).map(|n| ["line ", &n.to_string(), " ", text, "\n"].concat()).collect()
}

struct Destroyed<'a>(&'a Home);

impl Drop for Destroyed<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.run(["destroy", "--force", "play"]) {
            eprintln!("destroying: {error:#}");
        }
    }
}

/// The same keys to both.
fn press(panes: [&Pane<'_>; 2], keys: &str) -> anyhow::Result<()> {
    panes.into_iter().try_for_each(|pane| pane.keys(keys))
}

#[test]
fn vim_is_the_same_live_after_detach_after_a_kill_and_through_sizes() -> anyhow::Result<()> {
    let Some(tmux) = Tmux::start()? else { return Ok(()) };
    tmux.without_history()?;
    let home = Home::new(Who::Myself)?;
    let destroyed = Destroyed(&home);
    home.project("project")?;
    let text = numbered(100, "with some text, \ttabs and ünïcödé 日本");
    home.file("project/text.txt", text.as_bytes())?;
    let script = r"printf '\033[H\033[2J\033[32mbelow\033[m the editor\n'; vim -u NONE -N -n text.txt; printf back; read x";
    let size = (80, 24);
    let (direct, through) = both(&tmux, &home, script, size)?;
    direct.see("line 20 ")?;
    through.equals(&direct)?;
    press([&direct, &through], ":set mouse=a number\r:split\r3Goinserted 字")?;
    direct.see("INSERT")?;
    direct.see("inserted")?;
    through.equals(&direct)?;
    leave(through, false)?;
    let through = attach(&tmux, &home, size)?;
    through.equals(&direct)?;
    press([&direct, &through], " more")?;
    direct.see("more")?;
    through.equals(&direct)?;
    leave(through, true)?;
    let through = attach(&tmux, &home, size)?;
    through.equals(&direct)?;
    for (columns, rows) in [(110, 40), (60, 12), (1, 24), (80, 24)] {
        direct.resize(columns, rows)?;
        through.resize(columns, rows)?;
        through.equals(&direct).map_err(|error| error.context(format!("{columns}x{rows}")))?;
    }
    press([&direct, &through], "\x1b:qa!\r")?;
    direct.see("back")?;
    through.see("back")?;
    assert_eq!(direct.shown()?.rows[..2], through.shown()?.rows[..2]);
    through.equals(&direct)?;
    drop(destroyed);
    Ok(())
}

#[test]
fn text_is_folded_alike_when_the_size_changes_between_viewers() -> anyhow::Result<()> {
    let Some(tmux) = Tmux::start()? else { return Ok(()) };
    tmux.without_history()?;
    let home = Home::new(Who::Myself)?;
    let destroyed = Destroyed(&home);
    home.project("project")?;
    let script = r"printf '\033[H\033[2J'; for n in 1 2 3 4; do printf '%s: ' $n; printf 'abcdefghij%.0s' 1 2 3 4 5 6 7 8 9; echo; done; printf 'prompt> '; read x; echo end; read x";
    let (direct, mut through) = both(&tmux, &home, script, (80, 24))?;
    direct.see("prompt>")?;
    through.equals(&direct)?;
    // Where lines fold more often and the height shrinks at once, tmux itself drops rows that have room.
    for (at, (columns, rows)) in [(50, 24), (100, 30)].into_iter().enumerate() {
        direct.resize(columns, rows)?;
        through.resize(columns, rows)?;
        through.equals(&direct).map_err(|error| error.context(format!("live, {columns}x{rows}")))?;
        leave(through, at % 2 == 0)?;
        through = attach(&tmux, &home, (columns, rows))?;
        through.equals(&direct).map_err(|error| error.context(format!("{columns}x{rows}")))?;
    }
    press([&direct, &through], "\r")?;
    direct.see("end")?;
    through.equals(&direct)?;
    drop(destroyed);
    Ok(())
}

#[test]
fn full_screens_are_the_same_for_the_next_viewer() -> anyhow::Result<()> {
    let Some(tmux) = Tmux::start()? else { return Ok(()) };
    let home = Home::new(Who::Myself)?;
    home.project("project")?;
    let text = numbered(200, &"word ".repeat(30));
    home.file("project/text.txt", text.as_bytes())?;
    for (program, sign, keys) in [("top -d 1000", "PID", ""), ("less -N text.txt", "line 3", "/line 77\r")] {
        let destroyed = Destroyed(&home);
        let pane = tmux.pane(&home, 90, 20)?;
        pane.line(&format!("agent-shim run --name play --env host . -- {program}"))?;
        pane.see(sign)?;
        pane.keys(keys)?;
        // Nothing tells when a full screen is finished: the picture is what shows that it is.
        let sign = if keys.is_empty() { sign } else { "line 77" };
        pane.see(sign)?;
        let again = attach(&tmux, &home, (90, 20))?;
        again.see(sign)?;
        // Under the first viewer's is what the person had on the screen.
        until("the same screen", || {
            let (this, that) = (again.shown()?, pane.shown()?);
            let same = (this.rows, this.cursor, this.modes) == (that.rows, that.cursor, that.modes);
            Ok(same.then_some(()))
        })?;
        leave(again, true)?;
        leave(pane, false)?;
        let again = attach(&tmux, &home, (90, 20))?;
        again.see(sign)?;
        again.keys("q")?;
        until("the agent's end", || Ok(again.children()?.is_empty().then_some(())))?;
        drop(destroyed);
    }
    Ok(())
}
