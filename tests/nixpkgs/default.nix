# A package set that answers where nixpkgs would, made of what Debian ships. README.md says what it is for.
{
  system ? builtins.currentSystem,
  config ? { },
  overlays ? [ ],
  ...
}:
let
  lib = import ./lib;

  # What a package set is made of, each part knowing the whole, the last one having the last word.
  parts = [
    (import ./build.nix { inherit system config lib; })
    (import ./debian)
    (import ./agents)
    (import ./scripted.nix)
    (import ./odd.nix)
    (import ./rust.nix)
  ];

  pkgs = builtins.foldl' (set: part: set // part pkgs set) {
    inherit lib pkgs system config;
  } (parts ++ overlays);
in
pkgs
