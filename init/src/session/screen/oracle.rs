//! Real tmux as the judge of terminal semantics, for tests only.
//!
//! A byte stream is written to a fresh pane and what tmux made of it is read back: every cell
//! with its style, the screen under the alternate one, the cursor and every mode tmux reports.
//! Two streams are equal when tmux cannot tell them apart.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::{env, fs, process};

/// What a pane shows, in a form that compares and prints well.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    /// One string a row: text with canonical style marks, trailing blanks cut off.
    pub(crate) rows: Vec<String>,
    /// The primary screen while the alternate one is shown.
    pub(crate) under: Vec<String>,
    /// Cursor, modes, margins, tab stops and title.
    pub(crate) state: String,
}

/// A private tmux server that dies with this value.
pub(crate) struct Tmux {
    folder: PathBuf,
    panes: usize,
}

const STATE: &str = "cursor=#{cursor_x},#{cursor_y} visible=#{cursor_flag} alternate=#{alternate_on} \
    insert=#{insert_flag} keys=#{keypad_cursor_flag},#{keypad_flag} origin=#{origin_flag} wrap=#{wrap_flag} \
    mouse=#{mouse_standard_flag},#{mouse_button_flag},#{mouse_all_flag},#{mouse_utf8_flag},#{mouse_sgr_flag} \
    region=#{scroll_region_upper},#{scroll_region_lower} tabs=#{pane_tabs} title=#{pane_title}";

/// Splits the three answers of one tmux call; it cannot be on a pane of ours by accident.
const MARK: &str = "=-=-=-oracle-=-=-=";

impl Tmux {
    /// Starts a server, or says why there is none to judge by.
    pub(crate) fn start() -> Result<Self, String> {
        static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let nth = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let folder = env::temp_dir().join(format!("oracle-{}-{nth}", process::id()));
        fs::create_dir_all(&folder).map_err(|e| e.to_string())?;
        fs::write(
            folder.join("conf"),
            "set -g status off\nset -g history-limit 0\nset -g set-titles off\n\
             set -g allow-rename off\nset -g automatic-rename off\nset -g exit-empty off\n",
        )
        .map_err(|e| e.to_string())?;
        let tmux = Self { folder, panes: 0 };
        match tmux.command().args(["start-server"]).output() {
            Err(error) => Err(format!("tmux cannot be run: {error}")),
            Ok(out) if !out.status.success() => Err(String::from_utf8_lossy(&out.stderr).into_owned()),
            Ok(_) => Ok(tmux),
        }
    }

    /// Writes `bytes` to a fresh pane of that size and reads back what tmux made of them.
    pub(crate) fn show(&mut self, cols: u16, rows: u16, bytes: &[u8]) -> Shown {
        self.panes += 1;
        let name = format!("p{}", self.panes);
        let input = self.folder.join(&name);
        fs::write(&input, bytes).expect("writing the stream");
        // The answer to the status query proves that tmux has parsed everything before it.
        let script = format!(
            "stty raw -echo; cat {0}; printf '\\033\\134\\033[5n'; head -c 4 >/dev/null; \
             tmux -S {1}/s wait-for -S {2}; exec sleep 60",
            input.display(),
            self.folder.display(),
            name
        );
        let (x, y) = (cols.to_string(), rows.to_string());
        self.run(&["new-session", "-d", "-x", &x, "-y", &y, "-s", &name, &script]);
        self.run(&["wait-for", &name]);
        let answer = self.run(&[
            "capture-pane",
            "-e",
            "-p",
            "-t",
            &name,
            ";",
            "display-message",
            "-p",
            "-t",
            &name,
            MARK,
            ";",
            "capture-pane",
            "-e",
            "-p",
            "-a",
            "-q",
            "-t",
            &name,
            ";",
            "display-message",
            "-p",
            "-t",
            &name,
            MARK,
            ";",
            "display-message",
            "-p",
            "-t",
            &name,
            STATE,
            ";",
            "kill-session",
            "-t",
            &name,
        ]);
        let mark = format!("{MARK}\n");
        let mut parts = answer.split(&mark).map(str::to_owned);
        let mut next = || parts.next().unwrap_or_default();
        let (shown, under, state) = (next(), next(), next());
        Shown { rows: canonical(&shown), under: canonical(&under), state: state.trim_end().to_owned() }
    }

    fn command(&self) -> Command {
        let mut command = Command::new("timeout");
        command
            .args(["20", "tmux", "-u", "-S"])
            .arg(self.folder.join("s"))
            .arg("-f")
            .arg(self.folder.join("conf"));
        command.env_remove("TMUX").env("LC_ALL", "C.UTF-8").env("SHELL", "/bin/sh");
        command
    }

    fn run(&self, args: &[&str]) -> String {
        let out = self.command().args(args).output().expect("running tmux");
        assert!(out.status.success(), "tmux {args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).expect("tmux speaks UTF-8")
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        let _ = self.command().arg("kill-server").output();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Rows of styled cells as text: `{31;1}` where the style changes, line drawing as Unicode.
fn canonical(captured: &str) -> Vec<String> {
    let (mut style, mut drawing) = (Style::default(), false);
    captured.lines().map(|line| canonical_row(line, &mut style, &mut drawing)).collect()
}

fn canonical_row(line: &str, style: &mut Style, drawing: &mut bool) -> String {
    let mut cells: Vec<(char, Style)> = Vec::new();
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '\x0e' => *drawing = true,
            '\x0f' => *drawing = false,
            '\x1b' => {
                let sequence: String = chars.by_ref().take_while(|c| !c.is_ascii_alphabetic()).collect();
                style.apply(sequence.trim_start_matches('['));
            }
            c if *drawing => cells.push((drawn(c), style.clone())),
            c => cells.push((c, style.clone())),
        }
    }
    // tmux does not say how blanks look that were never written: a case that cares about the colour
    // of erased ones writes something behind them.
    while cells.last().is_some_and(|(c, _)| *c == ' ') {
        cells.pop();
    }
    let mut row = String::new();
    let mut last = Style::default();
    for (c, style) in cells {
        if style != last {
            let _ = write!(row, "{{{}}}", style.0.join(";"));
            last = style;
        }
        row.push(c);
    }
    row
}

/// The SGR parameters in force, sorted, so that the order they came in does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Style(Vec<String>);

impl Style {
    fn apply(&mut self, parameters: &str) {
        let mut all = parameters.split(';').peekable();
        while let Some(first) = all.next() {
            let mut item = first.to_owned();
            if matches!(first, "38" | "48" | "58") {
                let more = if all.peek() == Some(&"5") { 2 } else { 4 };
                for _ in 0..more {
                    let _ = write!(item, ":{}", all.next().unwrap_or("?"));
                }
            }
            let layer = |item: &str| match item.split(':').next().unwrap_or("").parse::<u16>() {
                Ok(30..=39 | 90..=97) => 1,
                Ok(40..=49 | 100..=107) => 2,
                Ok(58 | 59) => 3,
                Ok(4) => 4,
                other => 100 + other.unwrap_or(0),
            };
            if item.is_empty() || item == "0" {
                self.0.clear();
                continue;
            }
            self.0.retain(|old| layer(old) != layer(&item));
            if !matches!(item.as_str(), "39" | "49" | "59") {
                self.0.push(item);
                self.0.sort();
            }
        }
    }
}

/// DEC special graphics, as tmux keeps them: the letter it was given.
fn drawn(c: char) -> char {
    const GRAPHICS: &str = "◆▒␉␌␍␊°±␤␋┘┐┌└┼⎺⎻─⎼⎽├┤┴┬│≤≥π≠£·";
    match c {
        '`'..='~' => GRAPHICS.chars().nth(c as usize - '`' as usize).unwrap_or(c),
        c => c,
    }
}
