//! What is ignored is what git ignores.

use proptest::prelude::*;

use crate::scene::Scene;

fn word() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "b", "ab", "a.o", "b.c", "x", "a b", "[a]", "#c", "!d", "é"])
        .prop_map(str::to_owned)
}

fn pattern() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec![
        "a",
        "b",
        "ab",
        "*",
        "**",
        "?",
        "*.o",
        "a*",
        "*b",
        "[ab]",
        "[!a]*",
        "[^x-z]",
        "a?",
        "x",
        "\\a",
        "a\\ b",
        "[a",
        "\\#c",
        "\\!d",
        "[[:alpha:]]*",
        "a**b",
        "***",
        "[]a]",
        "[a-",
        "é",
        "?b",
        "\\*",
    ]);
    let parts = prop::collection::vec(part, 1..4);
    (any::<bool>(), any::<bool>(), any::<bool>(), prop::sample::select(vec!["", " ", "\r", "  "]), parts)
        .prop_map(|(not, root, folder, end, parts)| {
            let (not, root, folder) =
                (["", "!"][usize::from(not)], ["", "/"][usize::from(root)], ["", "/"][usize::from(folder)]);
            format!("{not}{root}{}{folder}{end}\n", parts.join("/"))
        })
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(word(), 1..4).prop_map(|parts| parts.join("/"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, max_shrink_iters: 40, ..ProptestConfig::default() })]

    /// Patterns in three places, files that are tracked all the same, and a second look that remembers the first.
    #[test]
    fn the_same_files_are_taken(
        files in prop::collection::btree_set(path(), 3..14),
        tracked in prop::collection::vec(any::<prop::sample::Index>(), 0..3),
        top in prop::collection::vec(pattern(), 1..5),
        below in prop::collection::vec(pattern(), 0..4),
        excluded in prop::collection::vec(pattern(), 0..2),
        more in prop::collection::vec(pattern(), 0..2),
    ) {
        let scene = Scene::empty();
        let mut there: Vec<&String> = Vec::new();
        for file in &files {
            let is_taken = |other: &&String| other.starts_with(&format!("{file}/")) || file.starts_with(&format!("{other}/"));
            if !there.iter().any(is_taken) {
                scene.write(file, file);
                there.push(file);
            }
        }
        for index in tracked {
            scene.git(&["add", "-f", "--", &format!(":(literal){}", index.get(&there))]);
        }
        scene.git(&["commit", "-q", "--allow-empty", "-m", "x"]);
        std::fs::create_dir_all(scene.root.join(".git/info")).unwrap();
        std::fs::write(scene.root.join(".git/info/exclude"), excluded.concat()).unwrap();
        scene.write(".gitignore", top.concat());
        if scene.root.join("a").is_dir() {
            scene.write("a/.gitignore", below.concat());
        }
        let check = |round: &str| {
            let outcome = scene.outcome(&[]);
            let expected = scene.by_git(false);
            let found = scene.git(&["rev-parse", &format!("{}^{{tree}}", scene.latest(&outcome))]);
            let names = |tree: &str| scene.git(&["ls-tree", "-r", "--name-only", tree]);
            prop_assert_eq!(names(&found), names(&expected), "{} {:#}", round, outcome);
            prop_assert_eq!(found, expected);
            Ok(())
        };
        check("first")?;
        scene.write(".gitignore", [top, more].concat().concat());
        scene.write("ab.new", "x");
        check("second")?;
        // With everything, nothing is asked of patterns.
        let outcome = scene.outcome(&["--ignored"]);
        let all = scene.names(&scene.latest(&outcome)).len();
        let beside = 2 + usize::from(scene.root.join("a/.gitignore").exists());
        prop_assert_eq!(all, there.len() + beside);
    }
}
