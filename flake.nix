{
  description = "Run AI coding agents in sandboxes that you can trust, walk away from, and come back to";

  # The newest Rust: stable nixpkgs may be older than Cargo.toml's rust-version.
  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;

      systems = [
        "x86_64-linux"
        "aarch64-linux"
      ];
      forEachSystem = make: lib.genAttrs systems (system: make nixpkgs.legacyPackages.${system});

      workspace = (lib.importTOML ./Cargo.toml).workspace.package;

      # Only what a build reads, so that a change to anything else is no new build. Tests read docs/.
      src = lib.fileset.toSource {
        root = ./.;
        fileset = lib.fileset.unions [
          ./.cargo
          ./Cargo.lock
          ./Cargo.toml
          ./deny.toml
          ./docs
          ./init
          ./protocol
          ./rustfmt.toml
          ./shim
          ./tests
        ];
      };

      # Static through musl. Init runs in file systems that hold nothing of this one; `exec` has no time for a dynamic linker.
      build =
        pkgs: args:
        pkgs.pkgsStatic.rustPlatform.buildRustPackage (
          {
            inherit (workspace) version;
            inherit src;
            cargoLock.lockFile = ./Cargo.lock;
            # `checks.tests` runs them, once for all packages.
            doCheck = false;
          }
          // args
        );

      meta = description: mainProgram: {
        inherit description mainProgram;
        license = [
          lib.licenses.mit
          lib.licenses.asl20
        ];
        platforms = systems;
      };

      packagesFrom = pkgs: rec {
        agent-init = build pkgs {
          pname = "agent-init";
          cargoBuildFlags = [ "--package=agent-init" ];
          meta = meta "PID 1 of a sandbox, a container or a microVM" "agent-init";
        };

        agent-shim = build pkgs {
          pname = "agent-shim";
          cargoBuildFlags = [ "--package=agent-shim" ];
          nativeBuildInputs = [ pkgs.installShellFiles ];
          # The shim looks for init, and for what serves git inside, beside itself.
          postInstall = ''
            ln -s ${agent-init}/bin/agent-init ${agent-init}/bin/agent-git $out/bin/
            ln -s agent-shim $out/bin/git-remote-agent
            for shell in bash fish zsh; do
              $out/bin/agent-shim completions $shell > agent-shim.$shell
            done
            installShellCompletion agent-shim.{bash,fish,zsh}
            $out/bin/agent-shim man man
            installManPage man/*
          '';
          # No wrapper sets PATH: starting a shell would cost more than all of `exec`.
          propagatedUserEnvPkgs = [ pkgs.bubblewrap ];
          meta = meta "Runs AI coding agents in sandboxes" "agent-shim";
        };

        default = agent-shim;
      };

      checksFor =
        pkgs:
        let
          # Runs cargo on the source, with all crates at hand and no network.
          cargo =
            name: tools: command:
            pkgs.stdenv.mkDerivation {
              pname = "agent-shim-${name}";
              inherit (workspace) version;
              inherit src;
              cargoDeps = pkgs.rustPlatform.importCargoLock { lockFile = ./Cargo.lock; };
              nativeBuildInputs = [
                pkgs.cargo
                pkgs.rustc
                pkgs.rustPlatform.cargoSetupHook
              ]
              ++ tools;
              # Some of cargo's helpers want a home, and Nix's builder has none.
              buildPhase = ''
                export HOME=$TMPDIR
                ${command}
              '';
              installPhase = "touch $out";
            };
        in
        {
          inherit (packagesFrom pkgs) agent-init agent-shim;

          fmt = cargo "fmt" [ pkgs.rustfmt ] "cargo fmt --all --check";
          clippy = cargo "clippy" [
            pkgs.clippy
          ] ''
            cargo clippy --offline --workspace --all-targets -- --deny warnings
            cargo clippy --offline --package agent-tests --test '*' -- --deny warnings
          '';
          docs = cargo "docs" [ ] ''
            RUSTDOCFLAGS='--deny warnings' cargo doc --offline --workspace --no-deps --document-private-items
          '';
          # Advisories change without the source, and are fetched: `cargo deny check` at a prompt has them too.
          deny = cargo "deny" [ pkgs.cargo-deny ] "cargo deny --offline check bans licenses sources";

          # What needs no sandbox of its own: the other tests make namespaces, which Nix's builder forbids. `.ci/run` has all.
          tests = build pkgs {
            pname = "agent-shim-tests";
            dontCargoBuild = true;
            dontCargoInstall = true;
            doCheck = true;
            checkType = "debug";
            cargoTestFlags = [
              "--package=agent-protocol"
              "--package=agent-init"
              "--package=agent-shim"
              "--lib"
            ];
            installPhase = "touch $out";
          };
        };
    in
    {
      packages = forEachSystem packagesFrom;

      overlays.default = final: _: { inherit (packagesFrom final) agent-init agent-shim; };

      apps = forEachSystem (
        pkgs:
        let
          inherit (packagesFrom pkgs) agent-shim;
          # `nix run` installs nothing, so what the shim starts comes along.
          start = pkgs.writeShellScriptBin "agent-shim" ''
            PATH=$PATH:${pkgs.bubblewrap}/bin exec ${agent-shim}/bin/agent-shim "$@"
          '';
          agent-shim-app = {
            type = "app";
            program = "${start}/bin/agent-shim";
            meta.description = agent-shim.meta.description;
          };
        in
        {
          agent-shim = agent-shim-app;
          default = agent-shim-app;
        }
      );

      devShells = forEachSystem (pkgs: {
        default = pkgs.mkShell {
          packages = [
            pkgs.bubblewrap
            pkgs.cargo
            pkgs.cargo-deny
            pkgs.clippy
            pkgs.rust-analyzer
            pkgs.rustc
            pkgs.rustfmt
            # What the tests drive.
            pkgs.git
            pkgs.jq
            pkgs.procps
            pkgs.python3
            pkgs.tini
            pkgs.tmux
          ];
          # .cargo/config.toml links the C library statically.
          buildInputs = [ pkgs.glibc.static ];
          RUST_SRC_PATH = pkgs.rustPlatform.rustLibSrc;
        };
      });

      checks = forEachSystem checksFor;
    };
}
