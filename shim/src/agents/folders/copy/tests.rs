use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
};

use super::*;
use proptest::prelude::*;
use serde_json::json;

struct Scene {
    folder: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["person", "home", "elsewhere"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        Self { folder }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join(path)
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn carried(&self, path: &str) -> Carried {
        let source = self.path("person").join(path);
        let source = source.exists().then_some(source);
        Carried { source, at: path.to_owned(), only: Vec::new(), set: None, public: false }
    }

    fn carry(&self, files: Vec<Carried>) -> Result<Notes, AgentError> {
        carry_out(&FolderPlan { files, ..FolderPlan::default() }, &self.path("home"))
    }

    /// Every file of the sandbox's home, with what it holds.
    fn inside(&self) -> Vec<(String, String)> {
        let home = self.path("home");
        let mut folders = vec![home.clone()];
        let mut files = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap().flatten() {
                if entry.file_type().unwrap().is_dir() {
                    folders.push(entry.path());
                } else {
                    let name = entry.path().strip_prefix(&home).unwrap().display().to_string();
                    files.push((name, fs::read_to_string(entry.path()).unwrap_or_default()));
                }
            }
        }
        files.sort();
        files
    }
}

fn pairs(files: &[(&str, &str)]) -> Vec<(String, String)> {
    files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
}

#[test]
fn files_and_folders_are_copied_for_their_owner_alone() {
    let scene = Scene::new();
    scene.write("person/.x/one", "1");
    scene.write("person/.x/deep/two", "2");
    fs::set_permissions(scene.path("person/.x/one"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(scene.path("person/.x/deep/two"), fs::Permissions::from_mode(0o666)).unwrap();
    assert_eq!(scene.carry(vec![scene.carried(".x")]).unwrap(), Notes::new());
    assert_eq!(scene.inside(), pairs(&[(".x/deep/two", "2"), (".x/one", "1")]));
    let mode = |path: &str| fs::metadata(scene.path(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("home/.x"), mode("home/.x/one"), mode("home/.x/deep/two")), (0o700, 0o700, 0o600));
}

#[test]
fn what_is_there_stays() {
    let scene = Scene::new();
    scene.write("person/.x/one", "theirs");
    scene.write("home/.x/one", "kept");
    scene.carry(vec![scene.carried(".x")]).unwrap();
    assert_eq!(scene.inside(), pairs(&[(".x/one", "kept")]));
}

#[test]
fn links_that_an_agent_planted_lead_nowhere() {
    for (planted, target) in
        [("home/.x", "elsewhere"), ("home/.x/deep", "elsewhere"), ("home/.x/deep/two", "elsewhere/new")]
    {
        let scene = Scene::new();
        scene.write("person/.x/deep/two", "secret");
        fs::create_dir_all(scene.path(planted).parent().unwrap()).unwrap();
        symlink(scene.path(target), scene.path(planted)).unwrap();
        let result = scene.carry(vec![scene.carried(".x")]);
        assert_eq!(fs::read_dir(scene.path("elsewhere")).unwrap().count(), 0, "{planted}");
        // A link in place of the file is a name that is taken; in place of a folder, nothing can be made.
        assert_eq!(result.is_ok(), planted.ends_with("two"), "{planted}: {result:?}");
        if let Err(error) = result {
            assert!(
                error.to_string().contains("symbolic link") || error.to_string().contains("a file where"),
                "{error}"
            );
        }
    }
}

#[test]
fn a_home_that_is_a_link_is_refused() {
    let scene = Scene::new();
    scene.write("person/.x", "1");
    fs::remove_dir(scene.path("home")).unwrap();
    symlink(scene.path("elsewhere"), scene.folder.path().join("home")).unwrap();
    let plan = FolderPlan { files: vec![scene.carried(".x")], ..FolderPlan::default() };
    assert!(carry_out(&plan, &scene.folder.path().canonicalize().unwrap().join("home")).is_err());
    assert_eq!(fs::read_dir(scene.path("elsewhere")).unwrap().count(), 0);
}

#[test]
fn links_of_the_persons_are_followed_inside_the_folder_only() {
    let scene = Scene::new();
    scene.write("person/.x/real", "1");
    scene.write("person/private", "s3cret");
    symlink("real", scene.path("person/.x/link")).unwrap();
    symlink("../private", scene.path("person/.x/out")).unwrap();
    symlink(scene.path("person/private"), scene.path("person/.x/absolute")).unwrap();
    symlink(".", scene.path("person/.x/zloop")).unwrap();
    rustix::fs::mknodat(CWD, scene.path("person/.x/pipe"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    let notes = scene.carry(vec![scene.carried(".x")]).unwrap();
    let inside = scene.inside();
    assert!(!format!("{inside:?}").contains("s3cret"));
    assert!(inside.contains(&(".x/link".to_owned(), "1".to_owned())), "{inside:?}");
    for (name, why) in
        [("out", "leads out"), ("absolute", "leads out"), ("pipe", "is no file"), ("zloop", "too deep")]
    {
        assert!(notes.iter().any(|note| note.contains(name) && note.contains(why)), "{name}: {notes:?}");
    }
}

#[test]
fn of_a_folder_that_lies_elsewhere_only_what_everyone_may_read_is_copied() {
    let scene = Scene::new();
    for (path, mode) in [("open", 0o644), ("private", 0o600), ("closed/open", 0o644)] {
        scene.write(&format!("person/.x/{path}"), "1");
        fs::set_permissions(scene.path("person/.x").join(path), fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::set_permissions(scene.path("person/.x/closed"), fs::Permissions::from_mode(0o700)).unwrap();
    let notes = scene.carry(vec![Carried { public: true, ..scene.carried(".x") }]).unwrap();
    assert_eq!(scene.inside(), pairs(&[(".x/open", "1")]));
    assert_eq!(notes.len(), 2, "{notes:?}");
}

#[test]
fn too_much_is_refused_before_anything_is_written() {
    let scene = Scene::new();
    scene.write("person/.x/small", "1");
    File::create(scene.path("person/.x/large")).unwrap().set_len(MAX_BYTES).unwrap();
    let error = scene.carry(vec![scene.carried(".x")]).unwrap_err();
    assert!(error.to_string().contains("more than 33554432 bytes"), "{error}");
    assert_eq!(error.hint().unwrap(), "`--agent-config own` starts without your configuration");
    fs::remove_file(scene.path("person/.x/large")).unwrap();
    for number in 0..MAX_FILES {
        scene.write(&format!("person/.x/{number}"), "");
    }
    let error = scene.carry(vec![scene.carried(".x")]).unwrap_err();
    assert!(error.to_string().contains("more than 2000 files"), "{error}");
    assert!(scene.inside().is_empty());
    fs::remove_file(scene.path("person/.x/small")).unwrap();
    scene.carry(vec![scene.carried(".x")]).unwrap();
    assert_eq!(scene.inside().len(), MAX_FILES);
}

#[test]
fn of_a_json_file_only_what_is_listed_enters() {
    let scene = Scene::new();
    scene.write("person/.x.json", r#"{ "theme": "dark", "projects": { "/secret": 1 } }"#);
    let mut carried = scene.carried(".x.json");
    carried.only = vec!["theme".to_owned()];
    carried.set = Some(json!({ "trusted": true }));
    let mut made = scene.carried(".new/settings.json");
    made.set = Some(json!({ "a": { "b": 1 } }));
    assert_eq!(scene.carry(vec![carried, made]).unwrap(), Notes::new());
    let read = |path: &str| serde_json::from_slice::<Value>(&fs::read(scene.path(path)).unwrap()).unwrap();
    assert_eq!(read("home/.x.json"), json!({ "theme": "dark", "trusted": true }));
    assert_eq!(read("home/.new/settings.json"), json!({ "a": { "b": 1 } }));
}

#[test]
fn what_is_no_json_is_not_searched_for_what_may_enter() {
    let scene = Scene::new();
    scene.write("person/.x.json", "// comment\n{ \"projects\": \"s3cret\" }");
    scene.write("person/.y.json", "// comment\n{}");
    let mut listed = scene.carried(".x.json");
    listed.only = vec!["theme".to_owned()];
    listed.set = Some(json!({ "trusted": true }));
    let mut whole = scene.carried(".y.json");
    whole.set = Some(json!({ "trusted": true }));
    let notes = scene.carry(vec![listed, whole]).unwrap();
    assert!(notes[0].starts_with("not copied") && notes[1].starts_with("copied as it is"), "{notes:?}");
    assert!(!format!("{:?}", scene.inside()).contains("s3cret"));
    assert_eq!(fs::read_to_string(scene.path("home/.y.json")).unwrap(), "// comment\n{}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Wherever an agent put links, and whatever is copied, nothing outside its home changes.
    #[test]
    fn nothing_outside_the_home_changes(
        files in proptest::collection::vec("[ab](/[ab]){0,3}", 1..5),
        links in proptest::collection::vec(("[ab](/[ab]){0,2}", prop_oneof!["elsewhere", "person", "home", "."]), 0..4),
    ) {
        let scene = Scene::new();
        for file in &files {
            let path = scene.path("person").join(file);
            if fs::create_dir_all(path.parent().unwrap()).is_ok() {
                drop(fs::write(path, "text"));
            }
        }
        for (place, target) in &links {
            let place = scene.path("home").join(place);
            if place.parent().unwrap().canonicalize().is_ok_and(|parent| parent.starts_with(scene.path("home")))
                || fs::create_dir_all(place.parent().unwrap()).is_ok()
            {
                drop(symlink(scene.path(target), place));
            }
        }
        let before = listing(&scene, &["person", "elsewhere"]);
        drop(scene.carry(vec![scene.carried("a"), scene.carried("b")]));
        prop_assert_eq!(before, listing(&scene, &["person", "elsewhere"]));
    }
}

fn listing(scene: &Scene, tops: &[&str]) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = tops.iter().map(|top| scene.path(top)).collect();
    let mut all = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            }
            all.push(entry.path());
        }
    }
    all.sort();
    all
}
