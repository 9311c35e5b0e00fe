# Packages that only have to be there: every program of theirs prints its name and what it was given.
pkgs: _:
let
  inherit (pkgs) lib;

  packageWith = meta: pname: programs: pkgs.derive {
    inherit pname programs meta;
    inherit (pkgs) bash;
    name = "${pname}-1.0";
    version = "1.0";
    script = ''
      mkdir -p "$out/bin"
      for program in $programs; do
        printf '%s\n' "#!$bash/bin/bash" "echo $program: \"\$*\"" >"$out/bin/$program"
        chmod +x "$out/bin/$program"
      done
    '';
  };
  package = packageWith { license = lib.licenses.mit; };
in
builtins.mapAttrs package {
  awscli2 = [ "aws" ];
  bubblewrap = [ "bwrap" ];
  cargo = [ "cargo" ];
  cargo-deny = [ "cargo-deny" ];
  clippy = [ "cargo-clippy" "clippy-driver" ];
  docker-client = [ "docker" ];
  docker-compose = [ "docker-compose" ];
  gcc = [ "cc" "gcc" ];
  go = [ "go" "gofmt" ];
  google-cloud-sdk = [ "gcloud" "gsutil" ];
  gopls = [ "gopls" ];
  hello = [ "hello" ];
  k9s = [ "k9s" ];
  kubectl = [ "kubectl" ];
  kubernetes-helm = [ "helm" ];
  kustomize = [ "kustomize" ];
  opentofu = [ "tofu" ];
  pnpm = [ "pnpm" ];
  rust-analyzer = [ "rust-analyzer" ];
  rustc = [ "rustc" ];
  rustfmt = [ "cargo-fmt" "rustfmt" ];
  tflint = [ "tflint" ];
  tini = [ "tini" ];
  tmux = [ "tmux" ];
  uv = [ "uv" "uvx" ];
  yarn = [ "yarn" ];
} // {
  # Those that have to be allowed; nixpkgs has two ways to say so.
  terraform = packageWith { license = lib.licenses.bsl11; } "terraform" [ "terraform" ];
  unfree-tool = packageWith { license = lib.licenses.unfree; newWords = true; } "unfree-tool" [ "unfree-tool" ];
}
