# Real programs: Debian's own, copied with every library that they name, and patched to find those and the loader in the
# store. They run where there is no /usr.
pkgs: _:
let
  inherit (pkgs) lib;

  architecture = { x86_64-linux = "amd64"; aarch64-linux = "arm64"; }.${pkgs.system};

  # The checksums of a Debian package's files: another version of it makes another derivation. Pure evaluation, which may
  # not look at the machine, does without.
  fingerprint = package:
    let file = name: "/var/lib/dpkg/info/${name}.md5sums";
      found = lib.filter builtins.pathExists [ (file package) (file "${package}:${architecture}") ];
    in if !(builtins ? currentSystem) then "unknown"
      else if found == [ ] then throw "Debian's package ‘${package}’ is not installed: run .ci/setup --tests"
      else builtins.hashFile "sha256" (lib.head found);

  # A package of what these packages of Debian hold. Its script sees the functions of take.sh.
  fromDebian = pname: packages: script:
    pkgs.derive {
      inherit pname;
      name = "${pname}-12";
      version = "12";
      glibc = if pname == "glibc" then "" else pkgs.glibc;
      bash = if lib.elem pname [ "glibc" "bash" ] then "" else pkgs.bash;
      fingerprints = map fingerprint packages;
      script = ''
        . ${./take.sh}
        mkdir -p "$out"
        ${script}
      '';
      meta.license = lib.licenses.mit;
    };

  # A package of all programs that a package of Debian has, under the names that they have there.
  programsOf = pname: package: fromDebian pname [ package ] "take_programs_of ${package}";

  python = fromDebian "python3" [ "python3-minimal" ] ''
    program=$(readlink -f /usr/bin/python3)
    version=''${program##*/}
    take "$program"
    mkdir -p "$out/lib/$version"
    tar -C "/usr/lib/$version" -ch --exclude=__pycache__ --exclude='./config-*' --exclude=./test --exclude=./idlelib \
      --exclude=./tkinter --exclude=./ensurepip --exclude=./sitecustomize.py . | tar -C "$out/lib/$version" -x
    take_libraries "$out/lib/$version"/lib-dynload/*.so
    ln -s "$version" "$out/bin/python3"
    ln -s "$version" "$out/bin/python"
  '';
  pythonPackages = {
    inherit python;
    pip = fromDebian "pip" [ "python3-pip-whl" ] ''
      modules=$out/lib/pip
      mkdir -p "$modules" "$out/bin"
      ${python}/bin/python -m zipfile -e /usr/share/python-wheels/pip-*.whl "$modules"
      printf '%s\n' '#!${python}/bin/python' "import sys; sys.path.insert(0, '$modules')" \
        'from pip._internal.cli.main import main; sys.exit(main())' >"$out/bin/pip"
      chmod +x "$out/bin/pip"
    '';
  };
in
{
  # The loader's own, and libgcc_s, which the C library opens by name.
  glibc = fromDebian "glibc" [ "libc6" "libgcc-s1" ] ''
    mkdir "$out/lib"
    for library in $(dpkg -L libc6 libgcc-s1 | grep '/lib/[^/]*/[^/]*\.so[.0-9]*$'); do
      cp -L "$library" "$out/lib/"
    done
  '';

  bash = fromDebian "bash" [ "bash" ] ''
    take /bin/bash
    ln -s bash "$out/bin/sh"
  '';

  coreutils = programsOf "coreutils" "coreutils";
  curl = programsOf "curl" "curl";
  diffutils = programsOf "diffutils" "diffutils";
  findutils = programsOf "findutils" "findutils";
  gnugrep = fromDebian "gnugrep" [ "grep" ] "take /bin/grep";
  gnused = programsOf "gnused" "sed";
  gnutar = fromDebian "gnutar" [ "tar" ] "take /bin/tar";
  jq = programsOf "jq" "jq";
  procps = programsOf "procps" "procps";
  ripgrep = programsOf "ripgrep" "ripgrep";
  fzf = fromDebian "fzf" [ "fzf" ] "take /usr/bin/fzf";
  fd = fromDebian "fd" [ "fd-find" ] ''
    take /usr/bin/fdfind
    mv "$out/bin/fdfind" "$out/bin/fd"
  '';

  # Git reads from its environment where its parts are, so a script says it. What is written in perl stays behind.
  git = fromDebian "git" [ "git" ] ''
    mkdir -p "$out/bin" "$out/libexec" "$out/share"
    cp -r /usr/lib/git-core "$out/libexec/git-core"
    cp -r /usr/share/git-core "$out/share/git-core"
    cd "$out/libexec/git-core"
    rm -rf mergetools $(grep -lsE '^#! ?/usr/bin/perl' *)
    own $(elf_files .)
    own_scripts .
    for name in git git-receive-pack git-upload-archive git-upload-pack; do
      ln -sf git "git-''${name#git-}"
      wrap "$name" "$PWD/$name" GIT_EXEC_PATH="$PWD" GIT_TEMPLATE_DIR="$out/share/git-core/templates"
    done
  '';

  nodejs_24 = fromDebian "nodejs" [ "nodejs" ] ''
    take "$(readlink -f /usr/bin/node)"
    # Others than Debian put everything into the one program.
    from=/usr/share/nodejs/
    modules=$(cat "$out"/bin/node "$libraries"/libnode.so.* 2>/dev/null | grep -aoE "$from[a-z_/-]+\.js" | sort -u || true)
    if [ -n "$modules" ]; then
      to=$out/share/nodejs/
      for module in $modules; do
        install -Dm644 "$module" "$to''${module#$from}"
      done
      cc -shared -fPIC -DFROM="\"$from\"" -DTO="\"$to\"" -o "$libraries/libredirect.so" ${./redirect.c}
      patchelf --add-needed libredirect.so "$out/bin/node"
    fi
  '';

  # Whatever version Debian has.
  python3 = python;
  python312 = python;
  python313 = python;
  python3Packages = pythonPackages;
  python312Packages = pythonPackages;
  python313Packages = pythonPackages;

  cacert = fromDebian "nss-cacert" [ "ca-certificates" ] ''
    mkdir -p "$out/etc/ssl/certs"
    cp -L /etc/ssl/certs/ca-certificates.crt "$out/etc/ssl/certs/ca-bundle.crt"
  '';
  tzdata = fromDebian "tzdata" [ "tzdata" ] ''
    mkdir "$out/share"
    cp -r /usr/share/zoneinfo "$out/share/zoneinfo"
    rm -f "$out/share/zoneinfo/localtime"
  '';
  glibcLocales = fromDebian "glibc-locales" [ "libc-bin" ] ''
    mkdir -p "$out/lib/locale"
    mkdir -p usr/lib/locale
    localedef --prefix="$PWD" --add-to-archive /usr/lib/locale/C.utf8
    cp usr/lib/locale/locale-archive "$out/lib/locale/"
  '';
}
