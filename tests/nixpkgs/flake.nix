{
  description = "A stand-in for nixpkgs, as a flake";

  outputs = { ... }: rec {
    lib = import ./lib;
    legacyPackages = lib.genAttrs lib.systems.flakeExposed (system: import ./. { inherit system; });
  };
}
