"""Names that would do something where they stood unquoted in generated source, in a page or on a terminal."""

from __future__ import annotations

import json

PLANTED = "TAPEIR_PLANTED"
CALL = f"getattr(__import__('builtins'), '{PLANTED}').append(1)"
"""What must not run: it needs a list called ``PLANTED`` among Python's built-ins."""

WORDS = (
    f"\n{CALL}\n#", f"\n        {CALL}\n        #", f"\r{CALL}\r#", f"\r\n{CALL}", f"\f{CALL}", f"\v{CALL}\n",
    f"\x85{CALL}\n", f"\u2028{CALL}\u2028", f"\u2029{CALL}", f'"""\n{CALL}\n"""', f"'''\n{CALL}\n'''",
    f'"); {CALL} #', f"'); {CALL} #", f"{{{CALL}}}", f"coding: utf-7 +AAo-{CALL}+AAo-", "-*- coding: rot13 -*-",
    "\\", "a\\", "a\\\n", "??/", "??/\n", "*/", "/*", "//", '*/ asm("trap;"); /*', "?>", "<?", "--!>", "-->", "<!--",
    "</script><script>planted()</script>", "<img src=x onerror=planted()>", "${planted}", "$data", "%s%n", "{0}",
    "\0", "a\0b", "\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "\x1b]52;c;cGxhbnRlZA==\x07", "\x9b31m", "\x08\x08", "\x7f",
    "\u202egnp.exe", "\ud800", "é", "\U0001f600", "int", "main", "printf", "run", "program", "view", "calls", "for",
    "return", "__global__", "#include <x>", "#pragma", "define i64 @run", "..", "../../a", "/dev/zero", "/etc/passwd",
    "C:\\Users\\x", "a" * 3000, " ", "'", '"', "`touch x`", "$(touch x)",
)  # fmt: skip


def text_of(word: str, body: str = "tanh") -> str:
    """IR text with a word wherever text may name something: module, functions, values, state, sites, files and modules of places."""
    name = json.dumps(word)
    at = f" loc({name}:1 in {name})"
    return f"""module @{name} {{
  func @{json.dumps(word + "k")}(%{name}: f32[40], %{json.dumps(word + "1")}: f32[40]) -> (f32[40]) {{
    %{json.dumps(word + "2")} = mul %{name}, %{json.dumps(word + "1")} : f32[40]{at}
    %{json.dumps(word + "3")} = {body} %{json.dumps(word + "2")} : f32[40]{at}
    return %{json.dumps(word + "3")}
  }}
  func @{name}(%{name}: f32[40] input, %{json.dumps(word + "w")}: f32[40] param, %key: key[] input, %i: i64[3] input
  ) -> (f32[3], f32[40], f32[40] update(%{json.dumps(word + "w")})) with {{mode = {name}}} {{
    %{json.dumps(word + "f")} = fused %{name}, %{json.dumps(word + "w")} {{kernel = @{json.dumps(word + "k")}}} : f32[40]{at}
    %{json.dumps(word + "s")} = fold_in %key {{site = {name}}} : key[]{at}
    %b = mask %{json.dumps(word + "s")} {{p = 0.5, shape = [40], dtype = bool}} : bool[40]{at}
    %m = cast %b {{dtype = f32}} : f32[40]{at}
    %{json.dumps(word + "e")} = exp %m : f32[40]{at}
    %t = take %{json.dumps(word + "e")}, %i {{axis = 0}} : f32[3]{at}
    return %t, %m, %{json.dumps(word + "f")}
  }}
}}
"""
