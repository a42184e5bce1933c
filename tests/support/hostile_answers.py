r"""A thousand responses that break verifiers, the same each time, each with an ordinary gold that it does not have."""

from __future__ import annotations

import random
from collections.abc import Callable

GOLDS = [
    "204",
    r"\frac{14}{3}",
    r"3\sqrt{13}",
    "(3,4]",
    "x^2+1",
    r"\{1, 2\}",
    r"120^\circ",
    r"\text{(B)}",
    "p - q",
    "4",
]


def boxed(answer: str) -> str:
    return rf"Therefore \boxed{{{answer}}}."


def nested(before: str, core: str, after: str, times: int) -> str:
    return before * times + core + after * times


def tower(r: random.Random) -> str:
    return boxed(rf"\dfrac{{{nested(f'{r.randint(2, 9)}^{{(', '5', ')}', r.randint(3, 9))}-5}}{{16}}")


def huge_power(r: random.Random) -> str:
    return boxed(rf"{r.randint(2, 99)}^{{{r.randint(10**8, 10**12)}}} - {r.randint(1, 9)}")


def factorials(r: random.Random) -> str:
    return boxed(str(r.randint(5, 99)) + "!" * r.randint(2, 30))


def nested_factorials(r: random.Random) -> str:
    return boxed(nested("(", str(r.randint(10, 999)), ")!", r.randint(2, 12)))


def binomials(r: random.Random) -> str:
    return boxed(nested(r"\binom{", f"{r.randint(50, 99)}", rf"^9}}{{{r.randint(3, 40)}}}", r.randint(1, 6)))


def braces(r: random.Random) -> str:
    return boxed(nested("{", "7", "}", r.choice([10, 100, 1000, 10**5])))


def brackets(r: random.Random) -> str:
    opening, closing = r.choice(["()", "[]", ("\\left(", "\\right)"), ("\\{", "\\}")])
    return boxed(nested(opening, "7", closing, r.choice([10, 20, 30, 45, 60, 500, 10**5])))


def fractions(r: random.Random) -> str:
    return boxed(nested(r"\frac{1}{1+", str(r.randint(2, 9)), "}", r.choice([5, 12, 25, 40, 400, 10**4])))


def roots(r: random.Random) -> str:
    return boxed(nested(rf"\sqrt{{{r.randint(2, 9)}+", "2", "}", r.choice([5, 12, 25, 40, 400, 10**4])))


def roots_of_roots(r: random.Random) -> str:
    terms = [rf"\sqrt[{r.randint(3, 17)}]{{{r.randint(2, 10**6)}}}" for _ in range(r.randint(3, 12))]
    return boxed("+".join(terms))


def digits(r: random.Random) -> str:
    count = r.choice([300, 1500, 1999, 2001, 10**4, 10**6, 3 * 10**6])
    return boxed(r.choice("123456789") * count)


def digit_expression(r: random.Random) -> str:
    number = str(r.getrandbits(2000))
    return boxed(rf"\sqrt{{{number}}}" if r.random() < 0.5 else rf"\frac{{{number}}}{{{number[::-1]}}}")


def text_without_end(r: random.Random) -> str:
    return r.choice([r"\boxed{", "{", "}", r"\boxed", "\\", "</think>", "answer "]) * r.choice(
        [10**3, 10**5, 10**6 // 4]
    )


def open_boxes(r: random.Random) -> str:
    return r"\boxed{" * r.randint(1, 10**5) + "204" + r"\boxed{" + "4" * r.randint(0, 9)


def many_boxes(r: random.Random) -> str:
    return boxed("204") * r.choice([10, 10**4]) + boxed(f"{r.randint(205, 999)}y")


def null_bytes(r: random.Random) -> str:
    return boxed("\0" * r.randint(1, 900) + str(r.randint(300, 400)) + "\0" * r.randint(1, 900))


def terminal(r: random.Random) -> str:
    return boxed(r.choice(["\x1b[2J\x1b[H", "\x1b]0;owned\x07", "\x9b31m", "\r\n\x08\x08"]) * r.randint(1, 200) + "999")


def control_characters(r: random.Random) -> str:
    return boxed("".join(chr(r.randrange(0, 32)) for _ in range(r.randint(1, 500))) + "77y")


def python_code(r: random.Random) -> str:
    code = [
        "__import__('os').system('touch /tmp/hostile')",
        "exec(bytes([112,114,105,110,116]))",
        "().__class__.__bases__[0].__subclasses__()",
        "eval('9'*9**9)",
        "open('/etc/passwd').read()",
        "(lambda f: f(f))(lambda f: f(f))",
        "[0]*10**12",
        "raise SystemExit",
        "os._exit(0)",
        "while True: pass",
    ]
    return boxed(r.choice(["", r"\text{", r"\mathrm{", "$"]).replace("{", "") + r.choice(code) + f"#{r.randint(0, 9)}")


def sympy_names(r: random.Random) -> str:
    names = "factorint integrate primepi zeta gamma Integral Sum Product Lambda S oo zoo nan lambda factorial2 divisors"
    return boxed(rf"\operatorname{{{r.choice(names.split())}}}({r.randint(10**9, 10**60)})")


def functions(r: random.Random) -> str:
    inner = nested(r.choice([r"\sin(", r"\cos(", r"\exp(", r"\log(", r"\tan(", r"\Gamma("]), "7", ")", r.randint(3, 45))
    return boxed(inner)


def unicode_digits(r: random.Random) -> str:
    start = r.choice([0x660, 0x966, 0xFF10, 0x1D7CE, 0x2080, 0x2460, 0x3007])
    return boxed("".join(chr(start + r.randint(5, 9)) for _ in range(r.randint(1, 50))))


def invisible(r: random.Random) -> str:
    marks = "\u200b\u200d\u202e\u2066\ufeff\u00ad"
    return boxed("".join(r.choice(marks) + r.choice("5679") for _ in range(r.randint(2, 200))))


def surrogates(r: random.Random) -> str:
    return boxed("".join(chr(r.randrange(0xD800, 0xE000)) for _ in range(r.randint(1, 100))) + "5")


def combining(r: random.Random) -> str:
    return boxed("7" + "\u0301" * r.randint(1, 1900))


def emoji(r: random.Random) -> str:
    return boxed("".join(chr(r.randrange(0x1F300, 0x1FAFF)) for _ in range(r.randint(1, 300))))


def not_numbers(r: random.Random) -> str:
    answers = [
        r"\text{NaN}",
        "nan",
        "NaN",
        "inf",
        "-inf",
        r"\infty",
        r"-\infty",
        r"\frac{0}{0}",
        "1/0",
        r"\infty-\infty",
    ]
    answers += [
        r"0 \cdot \infty",
        r"\frac{\infty}{\infty}",
        "0^0+5",
        r"\log(0)",
        r"\emptyset",
        "None",
        "null",
        r"1^\infty",
    ]
    return boxed(r.choice(answers) + r.choice(["", " ", r"\,", "+ 7", r"\cdot 9"]))


def infinite_sums(r: random.Random) -> str:
    kind = r.choice([r"\sum_{n=1}^{\infty}", r"\prod_{n=1}^{\infty}", rf"\sum_{{n=1}}^{{{10 ** r.randint(6, 30)}}}"])
    return boxed(rf"{kind} \frac{{\sin(n^{r.randint(2, 9)})}}{{n^{{{r.randint(2, 9)}}} + {r.randint(1, 9)}}}")


def integrals(r: random.Random) -> str:
    inner = rf"e^{{\sin(x^{r.randint(2, 9)})}} \log(x+{r.randint(1, 9)}) \sqrt{{x^{r.randint(3, 9)}+1}}"
    end = r.choice(["1", r"{\infty}", r"{\pi}"])
    return boxed(rf"\int_0^{end} {inner} dx" * r.randint(1, 2))


def limits(r: random.Random) -> str:
    return boxed(
        rf"\lim_{{x \to \infty}} \frac{{x^{{{r.randint(10, 10**6)}}}}}{{e^x}} \sin(x^{{x^{r.randint(2, 9)}}}) + 7"
    )


def matrices(r: random.Random) -> str:
    size = r.choice([5, 10, 25, 200])
    rows = r" \\ ".join(" & ".join(str(r.randint(0, 9)) for _ in range(size)) for _ in range(size))
    return boxed(rf"\begin{{pmatrix}} {rows} \end{{pmatrix}}" + r.choice(["", "^{99}", "^{-1}"]))


def determinants(r: random.Random) -> str:
    rows = r" \\ ".join(" & ".join(f"x_{r.randint(0, 9)}" for _ in range(9)) for _ in range(9))
    return boxed(rf"\det\begin{{vmatrix}} {rows} \end{{vmatrix}}")


def sets(r: random.Random) -> str:
    items = [str(r.randint(5, 10**6)) for _ in range(r.choice([30, 200, 330, 5000]))]
    return boxed(rf"\{{{','.join(items)}\}}")


def symbolic_sets(r: random.Random) -> str:
    items = ",".join(rf"\sqrt{{{r.randint(2, 999)}}}+x_{i}" for i in range(r.randint(5, 60)))
    return boxed(rf"\{{{items}\}}")


def unions(r: random.Random) -> str:
    parts = [rf"({r.randint(-99, 0)}, {r.randint(1, 99)}]" for _ in range(r.randint(5, 90))]
    return boxed(r.choice([r" \cup ", r" \cap "]).join(parts) + r" \cup (1000, \infty)")


def polynomials(r: random.Random) -> str:
    return boxed(rf"(a+b+c+d+e+{r.randint(2, 9)})^{{{r.choice([30, 200, 5000, 10**7])}}} - x^{{{r.randint(2, 10**9)}}}")


def products(r: random.Random) -> str:
    return boxed("".join(f"(x+{r.randint(2, 99)}y)" for _ in range(r.randint(20, 200))))


def equations(r: random.Random) -> str:
    left = "+".join(f"{r.randint(1, 9)}x^{{{k}}}" for k in range(r.randint(5, 40)))
    relation = r.choice(["=", r"\le", ">", r"\ne"])
    return boxed(rf"{left} {relation} \sin(x) + e^{{x^{r.randint(2, 9)}}}")


def chains(r: random.Random) -> str:
    return boxed(
        r.choice(["=", "<", r"\le ", r"\pm ", "+-", "^", "_", "/", ",", "%", "&", r"\\"]) * r.randint(5, 900) + "7y"
    )


def plus_minus(r: random.Random) -> str:
    return boxed(r" \pm ".join(str(r.randint(2, 99)) for _ in range(r.randint(5, 40))))


def modulo(r: random.Random) -> str:
    return boxed(
        rf"{r.randint(2, 9)}^{{{r.randint(2, 9)}^{{{r.randint(10**3, 10**6)}}}}} \mod {r.randint(2, 10**9)} + y"
    )


def decimals(r: random.Random) -> str:
    return boxed(rf"{r.random()}e{r.randint(10**3, 10**9)}" if r.random() < 0.5 else f"1E{r.randint(10**3, 10**9)}")


def scientific(r: random.Random) -> str:
    return boxed(rf"{r.random():.3f} \times 10^{{{r.choice(['', '-'])}{r.randint(10**4, 10**10)}}}")


def macros(r: random.Random) -> str:
    return boxed(
        r.choice([r"\def\x{\x\x}\x", r"\input{/etc/passwd}", r"\write18{ls}", r"\loop\repeat", r"\csname x"]) * 9
    )


def random_latex(r: random.Random) -> str:
    parts = [
        r"\frac",
        "{",
        "}",
        r"\sqrt",
        "^",
        "_",
        "(",
        ")",
        "x",
        "7",
        r"\pi",
        r"\left",
        r"\right",
        "&",
        r"\cdot",
        "|",
        "!",
    ]
    return boxed("".join(r.choice(parts) for _ in range(r.randint(5, 150))))


def random_bytes(r: random.Random) -> str:
    return boxed(r.randbytes(r.randint(1, 1500)).decode("latin-1"))


def long_prose(r: random.Random) -> str:
    return "We think. " * r.choice([10, 10**5]) + boxed(r"\text{" + "a long story " * r.randint(1, 140) + "}")


KINDS: list[Callable[[random.Random], str]] = [
    value
    for name, value in list(globals().items())
    if callable(value) and getattr(value, "__module__", "") == __name__ and name not in ("boxed", "nested")
]


def hostile(count: int) -> list[tuple[str, str, str]]:
    """(kind, response, gold), the kinds in turns."""
    r = random.Random(0)
    found = []
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        found.append((kind.__name__, kind(r), r.choice(GOLDS)))
    return found
