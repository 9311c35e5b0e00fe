# Agents by script: each says what it was given, keeps its state where the real one does, and answers to what is typed.
pkgs: _:
let
  agent = { pname, command, license, state, keys, version ? "1.2.3" }:
    pkgs.derive {
      inherit pname version command state keys;
      inherit (pkgs) bash coreutils;
      name = "${pname}-${version}";
      script = ''
        mkdir -p "$out/bin"
        substitute() { sed -e "s|@$1@|''${!1}|g"; }
        substitute bash <${./agent.sh} | substitute coreutils | substitute command | substitute version \
          | substitute state | substitute keys >"$out/bin/$command"
        chmod +x "$out/bin/$command"
      '';
      meta = { inherit license; mainProgram = command; };
    };
  inherit (pkgs.lib) licenses;
in
{
  claude-code = agent {
    pname = "claude-code";
    command = "claude";
    license = licenses.unfree;
    state = ".claude.json";
    keys = "ANTHROPIC_API_KEY ANTHROPIC_AUTH_TOKEN ANTHROPIC_BASE_URL ANTHROPIC_MODEL";
  };
  codex = agent {
    pname = "codex";
    command = "codex";
    license = licenses.asl20;
    state = ".codex/state.json";
    keys = "OPENAI_API_KEY OPENAI_BASE_URL";
  };
  gemini-cli = agent {
    pname = "gemini-cli";
    command = "gemini";
    license = licenses.asl20;
    state = ".gemini/state.json";
    keys = "GEMINI_API_KEY GOOGLE_GEMINI_BASE_URL";
  };
  opencode = agent {
    pname = "opencode";
    command = "opencode";
    license = licenses.mit;
    state = ".local/share/opencode/state.json";
    keys = "ANTHROPIC_API_KEY OPENAI_API_KEY GEMINI_API_KEY";
  };
}
