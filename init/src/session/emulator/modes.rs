//! Modes that change what a viewer's terminal sends or how it looks, but not where text lands.
//!
//! The model only has to remember them, so that a viewer who attaches later gets them too.

/// Private modes that are off unless a program asks for them.
const OFF_BY_DEFAULT: [u16; 14] = [1, 5, 9, 45, 66, 1000, 1002, 1003, 1004, 1005, 1015, 1006, 1016, 2004];

/// Private modes whose default the viewer's terminal decides: they are left alone until a program
/// sets or resets them.
const UNKNOWN_BY_DEFAULT: [u16; 3] = [12, 1007, 2031];

/// At most one of these is on; each also goes off when another is reset.
const MOUSE: [u16; 4] = [9, 1000, 1002, 1003];

/// How many keyboard modes a program may push on each screen; the oldest make room.
const KEYBOARD_STACK: usize = 16;

/// How many bytes of a title are kept.
const TITLE_BYTES: usize = 512;

/// What is remembered for the next viewer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Modes {
    on: u32,
    touched: u32,
    /// `CSI > 4 ; n m`, xterm's modifyOtherKeys.
    other_keys: u16,
    /// `CSI n SP q`; zero is the terminal's own shape.
    cursor_shape: u16,
    /// A program is between the two ends of a synchronized update.
    pub(crate) synchronized: bool,
    pub(crate) title: Option<String>,
}

impl Modes {
    /// Sets or resets a private mode; one that is not kept is none of our business.
    pub(crate) fn set_private(&mut self, number: u16, on: bool) {
        if number == 2026 {
            self.synchronized = on;
        }
        if MOUSE.contains(&number) {
            for mode in MOUSE {
                self.on &= !bit(mode);
            }
        }
        self.touched |= bit(number);
        if on {
            self.on |= bit(number);
        } else {
            self.on &= !bit(number);
        }
    }

    pub(crate) fn set_cursor_shape(&mut self, shape: u16) {
        if shape <= 6 {
            self.cursor_shape = shape;
        }
    }

    pub(crate) fn set_other_keys(&mut self, level: u16) {
        self.other_keys = level.min(3);
    }

    /// Keeps a title, without anything that a terminal could take for a command.
    pub(crate) fn set_title(&mut self, parts: &[&[u8]]) {
        let joined = parts.join(&b';');
        let mut title: String =
            String::from_utf8_lossy(&joined).chars().filter(|c| !c.is_control()).collect();
        title.truncate(title.floor_char_boundary(TITLE_BYTES));
        self.title = Some(title);
    }

    /// A soft reset: what a shell expects after a program died.
    pub(crate) fn soft_reset(&mut self) {
        for mode in [1, 66] {
            self.on &= !bit(mode);
        }
    }

    /// Turns everything off, in a terminal in any state.
    pub(crate) fn write_reset(out: &mut Vec<u8>) {
        for mode in OFF_BY_DEFAULT {
            out.extend_from_slice(format!("\x1b[?{mode}l").as_bytes());
        }
        out.extend_from_slice(b"\x1b>\x1b[>4m");
    }

    /// Turns on what is on, after [`Modes::write_reset`].
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        for mode in OFF_BY_DEFAULT {
            match mode {
                _ if self.on & bit(mode) == 0 => {}
                // Older terminals know the application keypad by its escape sequence only.
                66 => out.extend_from_slice(b"\x1b="),
                _ => out.extend_from_slice(format!("\x1b[?{mode}h").as_bytes()),
            }
        }
        for mode in UNKNOWN_BY_DEFAULT {
            if self.touched & bit(mode) != 0 {
                let end = if self.on & bit(mode) != 0 { 'h' } else { 'l' };
                out.extend_from_slice(format!("\x1b[?{mode}{end}").as_bytes());
            }
        }
        if self.other_keys > 0 {
            out.extend_from_slice(format!("\x1b[>4;{}m", self.other_keys).as_bytes());
        }
        out.extend_from_slice(format!("\x1b[{} q", self.cursor_shape).as_bytes());
        if let Some(title) = &self.title {
            out.extend_from_slice(format!("\x1b]2;{title}\x1b\\").as_bytes());
        }
    }
}

#[cfg(test)]
impl Modes {
    pub(crate) fn forget_what_no_reset_reaches(&mut self) {
        for mode in UNKNOWN_BY_DEFAULT {
            self.on &= !bit(mode);
            self.touched &= !bit(mode);
        }
        self.title = None;
    }
}

/// The place of a mode in the sets; zero for one that is not kept.
fn bit(number: u16) -> u32 {
    let known = OFF_BY_DEFAULT.iter().chain(&UNKNOWN_BY_DEFAULT).position(|mode| *mode == number);
    known.map_or(0, |place| 1 << place)
}

/// The stack of keyboard modes (kitty's protocol) of one screen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Keyboard(Vec<u16>);

impl Keyboard {
    /// `CSI > flags u`
    pub(crate) fn push(&mut self, flags: u16) {
        if self.0.len() == KEYBOARD_STACK {
            self.0.remove(0);
        }
        self.0.push(flags);
    }

    /// `CSI < n u`
    pub(crate) fn pop(&mut self, n: u16) {
        self.0.truncate(self.0.len().saturating_sub(usize::from(n)));
    }

    /// `CSI = flags ; how u`: 1 sets, 2 adds, 3 removes.
    pub(crate) fn change(&mut self, flags: u16, how: u16) {
        if self.0.is_empty() {
            self.0.push(0);
        }
        if let Some(top) = self.0.last_mut() {
            *top = match how {
                2 => *top | flags,
                3 => *top & !flags,
                _ => flags,
            };
        }
    }

    /// Empties the stack of the screen that a terminal shows.
    pub(crate) fn write_reset(out: &mut Vec<u8>) {
        out.extend_from_slice(format!("\x1b[<{KEYBOARD_STACK}u").as_bytes());
    }

    /// Pushes what is on it.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        for flags in &self.0 {
            out.extend_from_slice(format!("\x1b[>{flags}u").as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(modes: &Modes) -> String {
        let mut out = Vec::new();
        modes.write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn one_mouse_mode_at_a_time() {
        let mut modes = Modes::default();
        modes.set_private(1000, true);
        modes.set_private(1003, true);
        modes.set_private(1006, true);
        assert_eq!(written(&modes), "\x1b[?1003h\x1b[?1006h\x1b[0 q");
        modes.set_private(1000, false);
        assert_eq!(written(&modes), "\x1b[?1006h\x1b[0 q");
    }

    #[test]
    fn a_mode_nobody_touched_is_left_to_the_terminal() {
        let mut modes = Modes::default();
        assert_eq!(written(&modes), "\x1b[0 q");
        modes.set_private(1007, false);
        modes.set_private(31337, true);
        assert_eq!(written(&modes), "\x1b[?1007l\x1b[0 q");
    }

    #[test]
    fn a_title_holds_no_command_and_has_an_end() {
        let mut modes = Modes::default();
        modes.set_title(&[b"a\x1b]52", b"c\x9c\xff\xc2\x9b31mb"]);
        assert_eq!(modes.title.as_deref(), Some("a]52;c\u{fffd}\u{fffd}31mb"));
        modes.set_title(&["é".repeat(TITLE_BYTES).as_bytes()]);
        assert_eq!(modes.title.map(|title| title.len()), Some(TITLE_BYTES));
    }

    #[test]
    fn the_keyboard_stack_is_bounded() {
        let mut keyboard = Keyboard::default();
        (0..100).for_each(|flags| keyboard.push(flags));
        assert_eq!(keyboard.0.len(), KEYBOARD_STACK);
        keyboard.pop(1);
        keyboard.change(0x04, 2);
        assert_eq!(keyboard.0.last(), Some(&0x66));
        keyboard.pop(u16::MAX);
        keyboard.change(5, 1);
        assert_eq!(keyboard.0, [5]);
    }
}
