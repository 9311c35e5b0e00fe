# Those functions of nixpkgs' library that are asked for, with the same meaning.
rec {
  version = builtins.readFile ./.version;

  inherit (builtins) attrNames attrValues concatMap concatStringsSep elem elemAt filter foldl' head length listToAttrs
    map mapAttrs match tail;

  systems.flakeExposed = [ "x86_64-linux" "aarch64-linux" ];

  # The name of a package, without its version.
  getName = x: if builtins.isString x then (builtins.parseDrvName x).name else x.pname or (builtins.parseDrvName x.name).name;

  hasAttrByPath = path: set:
    path == [ ] || builtins.isAttrs set && set ? ${head path} && hasAttrByPath (tail path) set.${head path};

  attrByPath = path: default: set:
    if path == [ ] then set
    else if builtins.isAttrs set && set ? ${head path} then attrByPath (tail path) default set.${head path}
    else default;

  isDerivation = value: value.type or null == "derivation";

  optionalString = condition: text: if condition then text else "";

  genAttrs = names: value: listToAttrs (map (name: nameValuePair name (value name)) names);
  nameValuePair = name: value: { inherit name value; };
  mapAttrsToList = f: set: map (name: f name set.${name}) (attrNames set);

  range = first: last: if first > last then [ ] else builtins.genList (n: first + n) (last - first + 1);
  flatten = x: if builtins.isList x then concatMap flatten x else [ x ];
  concatMapStringsSep = separator: f: list: concatStringsSep separator (map f list);

  # One word of shell, whatever is in it.
  escapeShellArg = text: "'${builtins.replaceStrings [ "'" ] [ "'\\''" ] (toString text)}'";

  importTOML = path: builtins.fromTOML (builtins.readFile path);

  # Of a folder, what is listed.
  fileset.unions = flatten;
  fileset.toSource = { root, fileset }: builtins.path {
    name = "source";
    path = root;
    # What is listed, what is in it, and what leads to it.
    filter = path: _: builtins.any
      (listed: hasPrefix "${toString listed}/" "${path}/" || hasPrefix "${path}/" "${toString listed}/") (flatten fileset);
  };
  hasPrefix = prefix: text: builtins.substring 0 (builtins.stringLength prefix) text == prefix;

  licenses = mapAttrs (name: free: { inherit free; spdxId = name; shortName = name; }) {
    mit = true;
    asl20 = true;
    bsl11 = false;
    unfree = false;
  };
  platforms.linux = systems.flakeExposed;
}
