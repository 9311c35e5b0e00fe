//! Clients that push anything.

use std::fs;

use git2::Repository;
use proptest::prelude::*;

use crate::serve::{
    Service, Version,
    testing::{Small, packets},
};

const ZERO: &str = "0000000000000000000000000000000000000000";

/// A pack without objects, for refs to what is there.
const EMPTY: &[u8] =
    b"PACK\0\0\0\x02\0\0\0\0\x02\x9d\x08\x82\x3b\xd8\xa8\xea\xb5\x10\xad\x6a\xc7\x5c\x82\x3c\xfd\x3e\xd3\x1e";

/// What a client hears that pushes this.
fn push(small: &Small, commands: &[String], abilities: &str) -> String {
    let mut lines: Vec<String> = commands.to_vec();
    lines[0] += &["\0 report-status ", abilities].concat();
    let has_pack = commands.iter().any(|command| !command[41..].starts_with(ZERO));
    let lines: Vec<&str> = lines.iter().map(String::as_str).chain(["0000"]).collect();
    let said = [&packets(&lines)[..], if has_pack { EMPTY } else { b"" }].concat();
    let (heard, served) = small.hear(Service::Receive, Version::Zero, &said);
    assert!(served.is_ok(), "{served:?}");
    String::from_utf8_lossy(&heard).into_owned()
}

fn at(small: &Small, name: &str) -> Option<String> {
    let repository = Repository::open(small.folder.path()).unwrap();
    repository.refname_to_id(name).ok().map(|id| id.to_string())
}

#[test]
fn refs_are_made_moved_and_deleted() {
    let small = Small::new();
    let [one, two, _] = &small.commits[..] else { panic!("three commits") };
    let heard =
        push(&small, &[format!("{ZERO} {one} refs/heads/x"), format!("{ZERO} {one} refs/tags/y")], "");
    assert!(heard.ends_with("000eunpack ok\n0014ok refs/heads/x\n0013ok refs/tags/y\n0000"), "{heard}");
    assert_eq!(at(&small, "refs/heads/x").unwrap(), one.to_string());
    push(&small, &[format!("{one} {two} refs/heads/x"), format!("{one} {ZERO} refs/tags/y")], "");
    assert_eq!((at(&small, "refs/heads/x"), at(&small, "refs/tags/y")), (Some(two.to_string()), None));
    let heard = push(&small, &[format!("{one} {ZERO} refs/heads/x")], "");
    assert!(heard.contains("ng refs/heads/x failed to update ref"), "it had moved: {heard}");
    let log = fs::read_to_string(small.folder.path().join(".git/logs/refs/heads/x")).unwrap();
    assert!(log.lines().count() == 2 && log.contains("push"), "{log}");
}

#[test]
fn what_may_not_be_is_refused_in_words() {
    let small = Small::new();
    let [one, _, new] = &small.commits[..] else { panic!("three commits") };
    let tree = Repository::open(small.folder.path()).unwrap().find_commit(*one).unwrap().tree_id();
    for (command, why) in [
        (format!("{ZERO} {one} refs/../x"), "funny refname"),
        (format!("{ZERO} {one} HEAD"), "funny refname"),
        (format!("{ZERO} {} refs/heads/y", "12".repeat(20)), "bad pack"),
        (format!("{ZERO} {tree} refs/heads/y"), "failed to update ref"),
        (format!("{one} {one} refs/heads/y"), "failed to update ref"),
        (format!("{new} {ZERO} refs/heads/main"), "deletion of the current branch prohibited"),
    ] {
        let heard = push(&small, std::slice::from_ref(&command), "");
        assert!(heard.contains(&format!(" {why}\n")), "{command}: {heard}");
    }
    let twice = format!("{ZERO} {one} refs/heads/z");
    assert!(push(&small, &[twice.clone(), twice], "").contains("multiple updates"));
    let both = [format!("{ZERO} {one} refs/heads/z"), format!("{ZERO} {one} HEAD")];
    assert!(push(&small, &both, "atomic").contains("ng refs/heads/z atomic push failure"));
    assert_eq!(at(&small, "refs/heads/z"), None);
    push(&small, &both, "");
    assert!(at(&small, "refs/heads/z").is_some());
}

#[test]
fn a_checked_out_branch_moves_with_its_files_or_not_at_all() {
    let small = Small::new();
    let [old, _, new] = &small.commits[..] else { panic!("three commits") };
    let file = small.folder.path().join("folder/file");
    let back = [format!("{new} {old} refs/heads/main")];
    fs::write(&file, "mine\n").unwrap();
    let heard = push(&small, &back, "");
    assert!(heard.contains("ng refs/heads/main Working directory has unstaged changes"), "{heard}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine\n");
    let repository = Repository::open(small.folder.path()).unwrap();
    let mut index = repository.index().unwrap();
    index.add_path(std::path::Path::new("folder/file")).unwrap();
    index.write().unwrap();
    let heard = push(&small, &back, "");
    assert!(heard.contains("ng refs/heads/main Working directory has staged changes"), "{heard}");
    repository.checkout_head(Some(git2::build::CheckoutBuilder::new().force())).unwrap();
    fs::write(small.folder.path().join("unknown"), "stays").unwrap();
    let heard = push(&small, &back, "");
    assert!(heard.contains("ok refs/heads/main"), "{heard}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "0\n");
    assert_eq!(at(&small, "refs/heads/main").unwrap(), old.to_string());
    assert!(repository.statuses(None).unwrap().iter().all(|entry| entry.status() == git2::Status::WT_NEW));
}

#[test]
fn nothing_is_left_of_a_pack_that_is_none() {
    let small = Small::new();
    let one = small.commits[0];
    let objects = small.folder.path().join(".git/objects");
    let count = || fs::read_dir(&objects).unwrap().count();
    let before = count();
    let said = packets(&[&format!("{ZERO} {one} refs/heads/x\0 report-status"), "0000"]);
    for pack in
        [&b"PACK\0\0\0\x02\0\0\0\x01nothing that unfolds........."[..], b"no pack at all", &EMPTY[..20]]
    {
        let (heard, served) = small.hear(Service::Receive, Version::Zero, &[&said, pack].concat());
        let heard = String::from_utf8_lossy(&heard).into_owned();
        assert!(served.is_err() || heard.contains("ng refs/heads/x unpacker error"), "{heard}");
        assert_eq!((count(), at(&small, "refs/heads/x")), (before, None));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn whatever_a_client_pushes_it_is_answered_or_left(
        commands in prop::collection::vec(("[0-3]", "[0-3]", "(refs/heads/|refs/tags/|)[a-cm./]{0,5}", any::<bool>()), 0..5),
        rest in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        let small = Small::new();
        let id = |digit: &str| match digit.parse::<usize>().unwrap() {
            3 => ZERO.to_owned(),
            number => small.commits[number].to_string(),
        };
        let mut said = Vec::new();
        for (old, new, name, is_line) in &commands {
            let able = if *is_line { "\0 report-status side-band-64k" } else { "" };
            said.extend(packets(&[&format!("{} {} {name}{able}", id(old), id(new))]));
        }
        said.extend(packets(&["0000"]));
        said.extend(EMPTY);
        said.extend(rest);
        let _ = small.hear(Service::Receive, Version::Zero, &said);
    }
}
