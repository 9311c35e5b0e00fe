# What the project's own flake asks nixpkgs for. It is evaluated, every derivation of it too; nothing of it can be built.
pkgs: set:
let
  inherit (pkgs) lib;

  tool = name: pkgs.runCommand "${name}-1.0" { } "mkdir $out";

  importCargoLock = { lockFile }:
    let packages = (lib.importTOML lockFile).package;
    in pkgs.runCommand "cargo-vendor-dir" { crates = map (package: "${package.name}-${package.version}") packages; } "mkdir $out";

  # The names of static packages say so, as nixpkgs' do.
  rustPlatformFor = suffix: {
    inherit importCargoLock;
    cargoSetupHook = tool "cargo-setup-hook.sh";
    rustLibSrc = tool "rust-lib-src";
    buildRustPackage = { pname, version, src, cargoLock, ... }@given:
      pkgs.stdenv.mkDerivation (removeAttrs given [ "cargoLock" ] // {
        name = "${pname}${suffix}-${version}";
        cargoDeps = importCargoLock cargoLock;
      });
  };
in
{
  rustPlatform = rustPlatformFor "";
  pkgsStatic = {
    rustPlatform = rustPlatformFor "-static-${builtins.head (builtins.split "-" pkgs.system)}-unknown-linux-musl";
  };

  glibc = set.glibc // { static = tool "glibc-static"; };
  installShellFiles = tool "install-shell-files";
  mkShell = { name ? "nix-shell", packages ? [ ], ... }@given:
    pkgs.stdenv.mkDerivation (removeAttrs given [ "packages" ] // { inherit name; nativeBuildInputs = packages; });
}
