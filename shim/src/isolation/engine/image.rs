//! What an image brings besides its files: a command, variables, a user. It was made by others, so all of it is bounded
//! and nothing of it is taken for an option of ours.

use std::ffi::OsStr;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use super::error::{EngineError, known, plain, short};
use super::{Engine, remains::ask};
use crate::programs::Answer;

/// How long an engine may take to say what an image is.
const INSPECTED_WITHIN: Duration = Duration::from_secs(30);

/// Longest name of an image; a registry's, a path and a digest fit.
const MAX_NAME_BYTES: usize = 1024;

/// The most variables and arguments that an image may bring.
const MAX_ENTRIES: usize = 1024;

/// The highest id of a user that is taken from an image.
const MAX_USER: u32 = 65_533;

/// What the engine is asked for: a line with the id, and one of JSON.
const FORMAT: &str = "{{.Id}}\n{{json .Config}}";

/// An image, as far as it matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Which one it is, whatever its name may mean later.
    pub id: String,
    /// Its entrypoint with its arguments; empty where it has none.
    pub command: Vec<String>,
    /// Its environment.
    pub variables: Vec<(String, String)>,
    /// The user that it wants to run as, where that is a number other than root's.
    pub user: Option<u32>,
}

/// The part of an engine's answer that is read.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Config {
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    user: Option<String>,
}

impl Image {
    /// Asks the engine for an image that is here.
    pub fn inspect(engine: Engine, program: &Path, image: &str) -> Result<Image, EngineError> {
        let odd = |why: String| EngineError::OddImage { engine, image: image.to_owned(), why };
        if image.is_empty() {
            return Err(EngineError::NoImageGiven { engine });
        }
        check_name(image).map_err(|why| odd(why.to_owned()))?;
        let args = ["image", "inspect", "--format", FORMAT, image].map(Into::into).to_vec();
        match ask(program, args, INSPECTED_WITHIN) {
            Answer::Ended { status, stdout, .. } if status.success() => {
                parse(&stdout).map_err(|why| odd(format!("what {} says of it is odd: {why}", engine.name())))
            }
            answer => {
                let complaint = answer.complaint().unwrap_or_default();
                let all = if let Answer::Ended { stderr, .. } = &answer { stderr } else { &complaint };
                Err(known(&complaint, all, engine, image)
                    .unwrap_or_else(|| EngineError::NotRunning { engine, said: short(plain(&complaint)) }))
            }
        }
    }
}

/// Finds an image, in a registry where it is not here. The engine shows the person how far that is.
pub fn ensure(engine: Engine, image: &str, search: &OsStr) -> Result<Image, EngineError> {
    let program = engine.find(search)?;
    match Image::inspect(engine, &program, image) {
        Err(EngineError::NoImage { .. }) => pull(engine, &program, image)?,
        found => return found,
    }
    Image::inspect(engine, &program, image)
}

/// Nothing bounds how long that takes but the person, who sees it and can end it.
fn pull(engine: Engine, program: &Path, image: &str) -> Result<(), EngineError> {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};
    let failed = |said: String| EngineError::NotPulled { engine, image: image.to_owned(), said };
    let mut command = Command::new(program);
    command.args(["pull", image]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
    let mut last = String::new();
    if let Some(stderr) = child.stderr.take() {
        for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
            let line = short(String::from_utf8_lossy(&line).trim());
            if !line.is_empty() {
                eprintln!("{}: {line}", engine.name());
                last = line;
            }
        }
    }
    let status = child.wait().map_err(|error| failed(error.to_string()))?;
    if status.success() {
        return Ok(());
    }
    match known(&last, &last, engine, image) {
        Some(error @ EngineError::NotRunning { .. }) => Err(error),
        _ => Err(failed(plain(&last).to_owned())),
    }
}

/// A name goes into a command line.
fn check_name(image: &str) -> Result<(), &'static str> {
    let fits = |byte: u8| byte.is_ascii_graphic();
    if image.is_empty() || image.len() > MAX_NAME_BYTES || !image.bytes().all(fits) || image.starts_with('-')
    {
        return Err("that is no name of an image");
    }
    Ok(())
}

fn parse(answer: &str) -> Result<Image, String> {
    let (id, config) = answer.trim().split_once('\n').ok_or("it is cut short")?;
    let hex = id.strip_prefix("sha256:").unwrap_or(id);
    if hex.len() != 64 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err("it has no id".to_owned());
    }
    // Longer than what is kept of an answer, it is cut short and no JSON.
    let config: Option<Config> = serde_json::from_str(config).map_err(|error| error.to_string())?;
    let Config { env, entrypoint, cmd, user } = config.unwrap_or_default();
    let mut command = entrypoint.unwrap_or_default();
    command.extend(cmd.unwrap_or_default());
    let env = env.unwrap_or_default();
    if command.len() > MAX_ENTRIES || env.len() > MAX_ENTRIES {
        return Err(format!("it has more than {MAX_ENTRIES} arguments or variables"));
    }
    if command.iter().chain(&env).any(|text| text.contains('\0')) {
        return Err("there is a zero byte in it".to_owned());
    }
    let split = |entry: &String| {
        let (name, value) = entry.split_once('=')?;
        (!name.is_empty()).then(|| (name.to_owned(), value.to_owned()))
    };
    Ok(Image {
        id: id.to_owned(),
        command,
        variables: env.iter().filter_map(split).collect(),
        user: user.as_deref().and_then(number),
    })
}

/// `1000` or `1000:1000`. What a name means stands in a file of the image, which nobody reads here.
fn number(user: &str) -> Option<u32> {
    let user = user.split(':').next().unwrap_or_default();
    user.parse().ok().filter(|user| (1..=MAX_USER).contains(user))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "3be7cce9ebc77e334abd775853956eb057d656f3ca9620cf9e035f26fac47538";

    fn parsed(config: &str) -> Result<Image, String> {
        parse(&format!("{ID}\n{config}\n"))
    }

    #[test]
    fn entrypoint_and_command_are_one_and_everything_can_be_missing() {
        let image = parsed(
            r#"{"Env":["PATH=/bin","EMPTY=","A=b=c","odd","=x"],"Entrypoint":["/bin/sh","-c"],"Cmd":["id"],
                "User":"1234:55","WorkingDir":"/x","Labels":{"any":"thing"}}"#,
        );
        let image = image.unwrap();
        assert_eq!(image.command, ["/bin/sh", "-c", "id"]);
        let variables = [("PATH", "/bin"), ("EMPTY", ""), ("A", "b=c")];
        assert_eq!(image.variables, variables.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert_eq!((image.id.as_str(), image.user), (ID, Some(1234)));
        for nothing in ["null", "{}", r#"{"Env":null,"Cmd":null,"User":""}"#] {
            let image = parsed(nothing).unwrap();
            assert!(image.command.is_empty() && image.variables.is_empty() && image.user.is_none());
        }
    }

    #[test]
    fn only_a_number_that_is_not_roots_is_a_user() {
        let cases = [
            ("0", None),
            ("root", None),
            ("1000", Some(1000)),
            ("7:0", Some(7)),
            ("65534", None),
            ("-1", None),
        ];
        for (user, expected) in cases {
            assert_eq!(number(user), expected, "{user}");
        }
    }

    #[test]
    fn what_is_odd_is_refused() {
        for config in
            ["", "[]x", r#"{"Env":"x"}"#, r#"{"Cmd":[1]}"#, r#"{"Cmd":["a\u0000b"]}"#, "{\"Env\":[\"A=b\""]
        {
            assert!(parsed(config).is_err(), "{config}");
        }
        let many = format!("{{\"Cmd\":[{}\"x\"]}}", "\"x\",".repeat(MAX_ENTRIES));
        assert!(parsed(&many).unwrap_err().contains("1024"));
        for id in ["", "abc", "7", "null", "../../../x"] {
            assert!(parse(&format!("{id}\n{{}}\n")).is_err(), "{id}");
        }
    }

    #[test]
    fn a_name_is_no_option_and_no_text() {
        let long = "x".repeat(MAX_NAME_BYTES + 1);
        for name in ["", "-v", "--privileged", "a b", "a\nb", "\u{e4}", long.as_str()] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        for name in ["debian", "docker.io/library/debian:12", "x@sha256:00", "localhost:5000/a_b/c-d"] {
            assert!(check_name(name).is_ok(), "{name:?}");
        }
    }
}
