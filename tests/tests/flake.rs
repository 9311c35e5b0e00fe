//! The project's own flake, evaluated against the stand-in for nixpkgs: whether it builds is for a machine with a network.

use std::{fs, path::Path};

use agent_tests::{Home, Nix, Output, Who, finish};
use anyhow::Context;
use serde_json::Value;

const SYSTEMS: [&str; 2] = ["aarch64-linux", "x86_64-linux"];

/// What of the project the flake reads; a checkout has much else, and Nix would copy it.
const PARTS: [&str; 9] = [
    ".cargo",
    "docs",
    "init/src",
    "protocol/src",
    "protocol/schema",
    "shim/src",
    "tests/src",
    "tests/tests",
    "tests/nixpkgs",
];
const FILES: [&str; 9] = [
    "Cargo.lock",
    "Cargo.toml",
    "deny.toml",
    "flake.nix",
    "init/Cargo.toml",
    "protocol/Cargo.toml",
    "rustfmt.toml",
    "shim/Cargo.toml",
    "tests/Cargo.toml",
];

/// A copy of the project, and a person who evaluates its flake.
struct Flake {
    home: Home,
    _nix: Nix,
}

impl Flake {
    fn new() -> anyhow::Result<Option<Self>> {
        let mut home = Home::new(Who::Ordinary)?;
        let Some(nix) = home.nix()? else { return Ok(None) };
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the project's folder")?;
        for part in PARTS {
            home.copy_of(&root.join(part), &format!("project/{part}"))?;
        }
        for file in FILES {
            home.file(&format!("project/{file}"), &fs::read(root.join(file))?)?;
        }
        Ok(Some(Self { home, _nix: nix }))
    }

    /// `nix SUBCOMMAND ... --override-input nixpkgs THE-STAND-IN ...`, with the features that a plain Nix has off.
    fn nix(&self, subcommand: &[&str], more: &[&str]) -> anyhow::Result<Output> {
        let project = self.home.path().join("project");
        let features = ["--extra-experimental-features", "nix-command flakes"];
        let mut command = self.home.command("nix", features);
        let nixpkgs = format!("path:{}", project.join("tests/nixpkgs").display());
        command.args(subcommand).args(["--no-write-lock-file", "--override-input", "nixpkgs", &nixpkgs]);
        command.args(more).current_dir(project);
        finish(command, b"")
    }

    /// An output of the flake, as the function makes it.
    fn eval(&self, output: &str, function: &str) -> anyhow::Result<Value> {
        let installable = format!("path:.#{output}");
        self.nix(&["eval", "--json"], &[&installable, "--apply", function])?.success()?.json()
    }
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().map(|object| object.keys().map(String::as_str).collect()).unwrap_or_default()
}

#[test]
fn every_output_is_there_for_both_systems() -> anyhow::Result<()> {
    let Some(flake) = Flake::new()? else { return Ok(()) };
    // Everything that Nix knows the form of has that form.
    flake.nix(&["flake", "check", "--no-build"], &["path:."])?.success()?;

    for (output, expected) in [
        ("packages", ["agent-init", "agent-shim", "default"].as_slice()),
        ("devShells", &["default"]),
        ("checks", &["agent-init", "agent-shim", "clippy", "deny", "docs", "fmt", "tests"]),
    ] {
        let paths =
            flake.eval(output, "builtins.mapAttrs (_: builtins.mapAttrs (_: package: package.drvPath))")?;
        assert_eq!(keys(&paths), SYSTEMS, "{output}");
        for system in SYSTEMS {
            assert_eq!(keys(&paths[system]), expected, "{output} of {system}");
            for name in expected {
                let path = paths[system][name].as_str().context("a path")?;
                let derivation = fs::read_to_string(path)?;
                assert!(derivation.contains(&format!(r#""{system}""#)), "{path} is not for {system}");
            }
        }
    }
    Ok(())
}

/// Nothing inside a sandbox can be relied on, a C library least of all.
#[test]
fn both_programs_are_static() -> anyhow::Result<()> {
    let Some(flake) = Flake::new()? else { return Ok(()) };
    let names =
        flake.eval("packages", "builtins.mapAttrs (_: builtins.mapAttrs (_: package: package.name))")?;
    for (system, machine) in [("x86_64-linux", "x86_64"), ("aarch64-linux", "aarch64")] {
        for program in ["agent-init", "agent-shim"] {
            let name = names[system][program].as_str().context("a name")?;
            assert!(name.starts_with(&format!("{program}-static-{machine}-unknown-linux-musl-")), "{name}");
        }
        assert_eq!(names[system]["default"], names[system]["agent-shim"]);
    }
    Ok(())
}

#[test]
fn what_no_build_reads_makes_no_new_build() -> anyhow::Result<()> {
    let Some(flake) = Flake::new()? else { return Ok(()) };
    let path = || flake.eval("packages.x86_64-linux.agent-init", "package: package.drvPath");
    let first = path()?;
    flake.home.file("project/README.md", b"Something else")?;
    assert_eq!(path()?, first, "a page was changed");
    flake.home.file("project/init/src/main.rs", b"fn main() {}")?;
    assert_ne!(path()?, first, "the source was changed");
    Ok(())
}

#[test]
fn the_overlay_adds_the_same_packages_to_a_package_set() -> anyhow::Result<()> {
    let Some(flake) = Flake::new()? else { return Ok(()) };
    let packages = flake.eval("packages.x86_64-linux.agent-shim", "package: package.drvPath")?;
    let function =
        "overlay: let pkgs = import ./tests/nixpkgs { system = \"x86_64-linux\"; overlays = [ overlay ]; };
         in [ pkgs.agent-shim.drvPath pkgs.agent-init.pname ]";
    let overlaid =
        flake.nix(&["eval", "--json", "--impure"], &["path:.#overlays.default", "--apply", function])?;
    let overlaid = overlaid.success()?.json()?;
    assert_eq!(overlaid[1], "agent-init");
    // Pure evaluation cannot look at the machine's packages, which are part of the stand-in's derivations.
    let name = |path: &Value| {
        path.as_str().and_then(|path| path.split_once("-agent-")).map(|(_, name)| name.to_owned())
    };
    assert_eq!(name(&overlaid[0]), name(&packages));
    Ok(())
}

#[test]
fn apps_start_the_shim_with_what_it_needs() -> anyhow::Result<()> {
    let Some(flake) = Flake::new()? else { return Ok(()) };
    for system in SYSTEMS {
        let app = flake.eval(&format!("apps.{system}.default"), "app: app")?;
        assert_eq!(app["type"], "app");
        assert!(app["program"].as_str().is_some_and(|path| path.ends_with("/bin/agent-shim")), "{app}");
    }
    Ok(())
}
