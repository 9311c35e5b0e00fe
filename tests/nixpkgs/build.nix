# How packages are made: like nixpkgs' own functions of these names, of bash and perl instead of a standard environment.
{ system, config, lib }:
pkgs: _:
let
  isUnfree = meta: builtins.any (license: !(license.free or true)) (lib.flatten (meta.license or [ ]));

  # The first lines are nixpkgs' own words, which programs look for: those of 2026, and those before.
  refuseUnfree = name: meta:
    let
      at = builtins.unsafeGetAttrPos "license" meta;
      place = "${at.file}:${toString at.line}";
      reason = "has an unfree license (‘${(lib.head (lib.flatten meta.license)).shortName}’)";
    in throw ''
      ${if meta.newWords or false then "Refusing to evaluate package '${name}' in ${place} because it ${reason}"
        else "Package ‘${name}’ in ${place} ${reason}, refusing to evaluate."}

      Allow it with config.allowUnfree, config.allowUnfreePredicate or NIXPKGS_ALLOW_UNFREE=1.
    '';

  allowsUnfree = package:
    config.allowUnfree or (builtins.getEnv "NIXPKGS_ALLOW_UNFREE" == "1")
    || (config.allowUnfreePredicate or (_: false)) package;
in
rec {
  # A derivation that a shell script of the host's makes. The attributes are its environment.
  derive = { name, script, meta ? { }, passthru ? { }, ... }@given:
    let
      environment = removeAttrs given [ "script" "meta" "passthru" ];
      bare = derivation ({
        inherit system;
        builder = "/bin/bash";
        # Nix kills a builder that has closed its output, as the programs of coreutils do just before they end. The shell
        # does not, so it has to be the last.
        args = [ "-euc" "${script}\nexit" ];
        PATH = "/usr/bin:/bin";
        LC_ALL = "C.UTF-8";
      } // environment);
      package = bare // passthru // { inherit meta; };
      # Names and descriptions can be read; what leads to a build cannot.
      guard = value: if isUnfree meta && !allowsUnfree package then refuseUnfree name meta else value;
    in
    package // {
      drvPath = guard bare.drvPath;
      outPath = guard bare.outPath;
    };

  runCommand = name: environment: script: derive (environment // { inherit name script; });
  runCommandLocal = runCommand;

  writeTextFile = { name, text, destination ? "", executable ? false, ... }:
    derive {
      inherit name text;
      passAsFile = [ "text" ];
      script = ''
        file=$out${destination}
        mkdir -p "''${file%/*}"
        cp "$textPath" "$file"
        ${lib.optionalString executable ''chmod +x "$file"''}
      '';
    };
  writeText = name: text: writeTextFile { inherit name text; };
  writeTextDir = path: text: writeTextFile { name = baseNameOf path; destination = "/${path}"; inherit text; };
  writeScript = name: text: writeTextFile { inherit name text; executable = true; };
  writeScriptBin = name: text: writeTextFile { inherit name text; destination = "/bin/${name}"; executable = true; };
  writeShellScriptBin = name: text: writeScriptBin name "#!${pkgs.bash}/bin/bash\n${text}";

  # One tree of symbolic links to what is in these paths.
  buildEnv = {
    name,
    paths,
    pathsToLink ? [ "/" ],
    extraPrefix ? "",
    ignoreCollisions ? false,
    checkCollisionContents ? true,
    postBuild ? "",
    passthru ? { },
    meta ? { },
    ...
  }:
    derive {
      inherit name paths pathsToLink extraPrefix ignoreCollisions checkCollisionContents passthru meta;
      priorities = map (path: path.meta.priority or 5) paths;
      script = "perl ${./build-env.pl}\n${postBuild}";
    };

  symlinkJoin = { name, paths, postBuild ? "", passthru ? { }, meta ? { }, ... }:
    buildEnv { inherit name paths postBuild passthru meta; ignoreCollisions = true; };

  # Links of the given names. The entries are a set, or a list of sets with a name and a path.
  linkFarm = name: entries:
    let
      list = if builtins.isList entries then entries
        else lib.mapAttrsToList (name: path: { inherit name path; }) entries;
      link = entry: ''
        mkdir -p "$(dirname ${lib.escapeShellArg entry.name})"
        ln -s ${lib.escapeShellArg "${entry.path}"} ${lib.escapeShellArg entry.name}
      '';
    in runCommand name { } ''
      mkdir "$out" && cd "$out"
      ${lib.concatMapStringsSep "\n" link list}
    '';

  # A folder whose file `store-paths` lists all that these paths need, themselves included.
  closureInfo = { rootPaths }:
    let
      graph = number: "graph-${toString number}";
      numbers = lib.range 1 (lib.length rootPaths);
    in runCommand "closure-info" {
      graphs = map graph numbers;
      exportReferencesGraph = lib.concatMap (number: [ (graph number) (lib.elemAt rootPaths (number - 1)) ]) numbers;
    } ''
      mkdir "$out"
      cat $graphs >"$out/registration"
      grep "^$NIX_STORE/" "$out/registration" | grep -v '\.drv$' | sort -u >"$out/store-paths"
    '';

  stdenv = {
    inherit system;
    hostPlatform = { inherit system; };
    mkDerivation = { pname ? null, version ? null, buildCommand ? "mkdir $out", ... }@given:
      derive ({ name = "${pname}-${version}"; script = buildCommand; } // removeAttrs given [ "buildCommand" ]);
  };
}
