# Packages for what goes wrong, and closures of many paths.
pkgs: _:
let
  inherit (pkgs) lib;

  # One derivation with this many outputs beside `out`, each a folder with a program that needs two others, as in a heap:
  # they are built in one go, and all are in the closure of `out`.
  closureOf = count:
    let
      outputs = map (n: "p${toString n}") (lib.range 1 (count - 1));
    in pkgs.derive {
      name = "closure-${toString count}";
      outputs = [ "out" ] ++ outputs;
      script = ''
        all=()
        for output in $outputs; do all+=("''${!output}"); done
        mkdir -p "''${all[@]/%//bin}"
        for ((n = 0; n < ''${#all[@]}; n++)); do
          echo "''${all[2 * n + 1]-} ''${all[2 * n + 2]-}" >"''${all[n]}/bin/closure-$n"
        done
      '';
    };
in
{
  inherit closureOf;
  closure50 = closureOf 50;
  closure500 = closureOf 500;
  closure2000 = closureOf 2000;

  # Its builder says forty lines and fails.
  broken-build = pkgs.runCommand "broken-build-1.0" { } ''
    for n in $(seq 40); do echo "broken-build: line $n"; done
    echo "broken-build: this is why" >&2
    exit 7
  '';

  # Its builder says so when it has begun, in a file beside the store too, and waits for another there.
  slow-build = pkgs.runCommand "slow-build-1.0" { } ''
    mkdir -p "$out/bin"
    beside=''${NIX_STORE%/*}
    echo "slow-build: waiting for $beside/slow-build.release"
    touch "$beside/slow-build.started"
    until [ -e "$beside/slow-build.release" ]; do sleep 0.02; done
    rm -f "$beside/slow-build.started"
    echo "slow-build: released" | tee "$out/bin/slow-build"
  '';

  # More than a small disk holds.
  large-build = pkgs.runCommand "large-build-1.0" { } ''
    mkdir "$out"
    head -c 256M /dev/zero >"$out/zeroes"
  '';

  # Has the same program as `jq`, and another one.
  other-jq = pkgs.runCommand "other-jq-1.0" { } ''
    mkdir -p "$out/bin"
    echo "not jq" | tee "$out/bin/jq" >"$out/bin/other-jq"
  '';

  # Names that only nix takes without quotes around them, or not at all.
  "odd.name" = pkgs.hello;
  _1password = pkgs.hello;
  nested.deeply.hello = pkgs.hello;
  not-a-package = "text";
}
