//! Rows as tmux prints them, brought to one form: the same cells are the same text.

use std::fmt::Write as _;

/// DEC special graphics from the backquote on. tmux keeps the letter, a picture may hold the character.
const GRAPHICS: &str = "◆▒␉␌␍␊°±␤␋┘┐┌└┼⎺⎻─⎼⎽├┤┴┬│≤≥π≠£·";

/// Rows of styled cells as text, `{31;1}` where the style changes, without the blanks at their ends: tmux does
/// not say how blanks look that nobody wrote. What cares about the colour of erased ones writes behind them.
pub(crate) fn canonical(captured: &str) -> Vec<String> {
    let (mut style, mut drawing) = (Style::default(), false);
    captured.lines().map(|line| row(line, &mut style, &mut drawing)).collect()
}

fn row(line: &str, style: &mut Style, drawing: &mut bool) -> String {
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
            '`'..='~' if *drawing => {
                cells.push((GRAPHICS.chars().nth(c as usize - '`' as usize).unwrap_or(c), style.clone()));
            }
            c => cells.push((c, style.clone())),
        }
    }
    while cells.last().is_some_and(|(c, _)| *c == ' ') {
        cells.pop();
    }
    let (mut row, mut last) = (String::new(), Style::default());
    for (c, style) in cells {
        if style != last {
            // Writing into a string never fails.
            let _always = write!(row, "{{{}}}", style.0.join(";"));
            last = style;
        }
        row.push(c);
    }
    row
}

/// The SGR parameters in force, sorted: the order they came in does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Style(Vec<String>);

impl Style {
    fn apply(&mut self, parameters: &str) {
        let mut all = parameters.split(';').peekable();
        while let Some(first) = all.next() {
            let mut item = first.to_owned();
            if matches!(first, "38" | "48" | "58") {
                let more = if all.peek() == Some(&"5") { 2 } else { 4 };
                item.extend(all.by_ref().take(more).flat_map(|part| [":", part]));
            }
            item = sixteen(&item).unwrap_or(item);
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

/// The first sixteen of the 256 colours have names of their own; a picture uses those.
fn sixteen(item: &str) -> Option<String> {
    let (layer, number) = item.split_once(":5:")?;
    let (layer, number) =
        (layer.parse::<u16>().ok().filter(|layer| *layer < 58)?, number.parse::<u16>().ok()?);
    match number {
        0..=7 => Some((layer - 8 + number).to_string()),
        8..=15 => Some((layer + 44 + number).to_string()),
        _ => None,
    }
}

/// Parameters of one layer replace each other.
fn layer(item: &str) -> u16 {
    match item.split(':').next().unwrap_or_default().parse() {
        Ok(30..=39 | 90..=97) => 1,
        Ok(40..=49 | 100..=107) => 2,
        Ok(58 | 59) => 3,
        Ok(4) => 4,
        Ok(other) => 100 + other,
        Err(_) => 100,
    }
}
