r"""Golds in the style of MATH-500, AIME and AMC, each with rewritings and with near misses.

``CASES`` maps a gold answer to the answers that a person would call the same, and to those that are close and wrong.
Near misses that are accepted all the same are not here but in ``LENIENT``, which docs/verification.md explains.
"""

from __future__ import annotations

# Hangs inside a library's C code: no signal interrupts it.
TOWER = r"\dfrac{5^{(5^{(5^{(5^5)})}-4)}-5}{16}"

CASES: dict[str, tuple[list[str], list[str]]] = {
    # integers and decimals
    r"\boxed{204}": (["204", " 204 ", "204.", "$204$", "204.0", "0204", r"\text{204}"], ["203", "205", "-204", "2040"]),
    "27": (["27.00", r"\frac{54}{2}", "3^3", r"27\text{ miles}", r"\(27\)"], ["26", "28", "-27", "72", "0.27", "3^2"]),
    "-7": (["\N{MINUS SIGN}7", "- 7", r"-\frac{14}{2}", "-7.0"], ["7", "-6", "-8", r"-\frac{1}{7}"]),
    "58,500": (["58500", r"58{,}500", r"58\,500", r"58,\!500", "58 500", r"\$58,500"], ["58,501", "58.5", "5850"]),
    r"10,\!080": (["10080", "10,080", r"10{,}080", r"10\,080"], ["10,081", "1080", "10.08"]),
    r"11,\! 111,\! 111,\! 100": (["11111111100", "11,111,111,100"], ["11111111101", "1111111100", "11,111,111,000"]),
    "0.15": ([".15", r"\frac{3}{20}", r"15\%", "0.150"], ["0.16", "1.5", "-0.15", r"\frac{3}{21}", "15"]),
    ".0000672": (
        ["0.0000672", r"6.72 \times 10^{-5}", r"6.72\cdot10^{-5}"],
        [".0000673", ".00000672", r"6.72\times10^{-4}"],
    ),
    "326.5": ([r"\frac{653}{2}", r"326\frac{1}{2}", "326.50"], ["326", "327", "325.5", r"\frac{655}{2}"]),
    # fractions and mixed numbers
    r"\frac{14}{3}": (
        [r"\dfrac{14}{3}", r"\tfrac{14}{3}", "14/3", r"\frac{28}{6}", r"4\frac{2}{3}", r"\frac{ 14 }{ 3 }"],
        [r"\frac{3}{14}", r"\frac{13}{3}", r"\frac{14}{5}", r"-\frac{14}{3}", "4.67", "4.6"],
    ),
    r"-\frac{3}{8}": (["-0.375", r"\frac{-3}{8}", "-3/8", r"-\dfrac38"], [r"\frac{3}{8}", r"-\frac{8}{3}", "-0.37"]),
    r"\frac 59": ([r"\frac{5}{9}", r"\frac59", "5/9"], [r"\frac{9}{5}", r"\frac{5}{8}", "0.5", "59"]),
    r"\frac9{19}": ([r"\frac{9}{19}", r"\dfrac{18}{38}"], [r"\frac{9}{18}", r"\frac{19}{9}", "0.47"]),
    r"\dfrac{17}{50}": (["0.34", r"\frac{17}{50}", r"34\%"], ["0.35", "0.034", r"\frac{50}{17}", "34"]),
    r"\frac{448}{15625}": (["0.028672", r"\frac{448}{5^6}"], ["0.028673", r"\frac{448}{15624}", r"\frac{448}{5^7}"]),
    r"137 \frac{1}{2}": (
        ["137.5", r"\frac{275}{2}", r"137\frac12"],
        ["137", r"\frac{137}{2}", r"\frac{276}{2}", "138.5"],
    ),
    r"1\frac{4}{5}": (["1.8", r"\frac{9}{5}", r"1 \frac{4}{5}"], [r"\frac{4}{5}", "1.45", r"\frac{8}{5}"]),
    # roots, pi, complex numbers
    r"3\sqrt{13}": (
        [r"\sqrt{117}", r"3 \sqrt{13}", r"3\cdot\sqrt{13}", r"\sqrt{13} \cdot 3"],
        [r"\sqrt{39}", r"3\sqrt{14}", r"3+\sqrt{13}", r"-3\sqrt{13}"],
    ),
    r"11\sqrt2": ([r"11\sqrt{2}", r"\sqrt{242}"], [r"\sqrt{22}", r"12\sqrt{2}", r"11\sqrt[3]{2}", "15.556"]),
    r"\frac{\sqrt{3}}{3}": (
        [r"\frac{1}{\sqrt{3}}", r"\sqrt{\frac13}", r"\dfrac{\sqrt3}{3}"],
        [r"\sqrt{3}", r"\frac{\sqrt{3}}{2}", r"\frac{3}{\sqrt{3}}"],
    ),
    r"18+2\pi": ([r"2\pi+18", r"2(9+\pi)", r"18 + 2 \pi"], [r"18-2\pi", r"20\pi", r"2+18\pi", "24.28"]),
    r"\frac{20000}{\pi}": (
        [r"\frac{20{,}000}{\pi}", r"20000/\pi", r"20000\pi^{-1}"],
        [r"20000\pi", r"\frac{20000}{\pi^2}", r"\frac{2000}{\pi}"],
    ),
    r"288 \pi": ([r"288\pi", r"288 \cdot \pi", r"\pi\cdot 288"], [r"288", r"287\pi", r"288\pi^2", "904.78"]),
    r"1+2\sqrt{3}": ([r"2\sqrt{3}+1", r"1 + \sqrt{12}"], [r"1-2\sqrt{3}", r"2+1\sqrt{3}", r"3\sqrt{3}"]),
    r"1 \pm \sqrt{19}": (
        [r"1\pm\sqrt{19}", r"1+\sqrt{19}, 1-\sqrt{19}", r"1-\sqrt{19}, 1+\sqrt{19}"],
        [r"1+\sqrt{19}", r"1\pm\sqrt{18}", r"-1\pm\sqrt{19}"],
    ),
    r"\{1\pm\sqrt{5},-2\}": (
        [r"\{-2, 1\pm\sqrt{5}\}", r"\left\{ 1 \pm \sqrt{5}, -2 \right\}", r"\{1+\sqrt5, 1-\sqrt5, -2\}"],
        [r"\{1\pm\sqrt{5}\}", r"\{1\pm\sqrt{5},2\}", r"\{1\pm\sqrt{6},-2\}"],
    ),
    "6 - 5i": (["6-5i", "-5i+6"], ["6+5i", "5-6i", "-6-5i", "6-5"]),
    "1+274i": (["274i + 1", r"1 + 274 i"], ["1-274i", "1+275i", "274+i", "275i"]),
    # units, money, angles, bases
    r"120^\circ": (
        ["120", r"120^{\circ}", r"120\text{ degrees}", "120°", r"120^\circ."],
        ["121", r"60^\circ", r"-120^\circ", "120^2"],
    ),
    r"\frac{270}7\text{ degrees}": (
        [r"\frac{270}{7}", r"\frac{270}{7}^\circ", r"\dfrac{270}{7}\text{ degrees}"],
        [r"\frac{270}{8}", r"\frac{7}{270}\text{ degrees}", "38.57"],
    ),
    r"5.4 \text{ cents}": (
        ["5.4", r"5.4\text{ cents}", r"5.40\text{ cents}"],
        [r"5.5\text{ cents}", "54", r"5.4\text{ dollars}"],
    ),
    r"15\mbox{ cm}^2": (
        ["15", r"15\text{ cm}^2", r"15 \text{ cm}^{2}", r"15\mbox{ cm}^2.", "15 cm^2"],
        [r"15\text{ cm}^3", "225", r"15\text{ m}^2", r"15\text{ cm}", "15^2"],
    ),
    r"864 \mbox{ inches}^2": (
        ["864", r"864\text{ in}^2", r"864\text{ square inches}"],
        ["746496", r"864\text{ feet}^2", r"865\mbox{ inches}^2"],
    ),
    r"5\text{ m}": (
        ["5", "5 m", r"5\,\mathrm{m}", r"5\text{ meters}"],
        ["5 cm", r"5\text{ cm}", r"5\text{ km}", r"5\text{ m}^2", "6 m"],
    ),
    r"\$18.90": (
        ["18.90", "18.9", r"\$18.9", r"18.90\text{ dollars}"],
        [r"\$18.91", r"\$1890", "19.80", r"18.90\text{ cents}"],
    ),
    r"\$32,\!348": (["32348", "32,348", r"\$32,348", r"\$32{,}348"], [r"\$32,349", "32.348"]),
    "15": (["5(3)", r"5 \cdot 3", "5 (3)"], ["8", "5+3", "53"]),
    r"50\%": (["50", "0.5", r"\frac12", r"50 \%", "50%"], ["5%", r"51\%", "500", r"0.5\%"]),
    "204_5": (["204_{5}", r"204_5"], ["204_6", "204_7", "203_5", "240_5", "2045", "54_5"]),
    "4210_{5}": (["4210_5", "4210_{ 5 }"], ["4210_6", "4211_5", "4201_5", "42105"]),
    # tuples, lists, sets, intervals
    r"\left( 3, \frac{\pi}{2} \right)": (
        [r"(3,\frac{\pi}{2})", r"(3, \pi/2)", r"\left(3, \dfrac{\pi}{2}\right)", r"(3, 0.5\pi)"],
        [
            r"(\frac{\pi}{2}, 3)",
            r"(3, \frac{\pi}{3})",
            r"(-3, \frac{\pi}{2})",
            r"[3, \frac{\pi}{2}]",
            r"\{3, \frac{\pi}{2}\}",
        ],
    ),
    "(15,-29)": (
        ["(15, -29)", r"\left(15,-29\right)", r"\left( 15 , -29 \right)"],
        ["(-29,15)", "(15,29)", "(15,-28)", r"\{15,-29\}"],
    ),
    "(6,31,-1)": (["(6, 31, -1)"], ["(6,-1,31)", "(31,6,-1)", "(6,31,1)", "(6,31)", r"\{6,31,-1\}"]),
    r"\{1, 2\}": (
        [r"\{2,1\}", r"\left\{1,2\right\}", "1, 2"],
        ["(1,2)", "[1,2]", "(2,1)", r"\{1,3\}", r"\{1\}", r"\{1,2,3\}"],
    ),
    "1,-2": (["-2, 1", "1, -2", r"\{1,-2\}"], ["1,2", "-1,2", "1", "1,-2,3", "1,-3"]),
    "3, 5, 7": (["3,5,7", r"\{3,5,7\}", "7, 5, 3", r"3,\ 5,\ 7"], ["3,5", "3,5,9", "3,5,7,9", "357"]),
    "(3,4]": (["(3, 4]", r"\left(3,4\right]"], ["(3,4)", "[3,4]", "[3,4)", "(3,5]", "(4,3]"]),
    r"(-\infty, 0]": (
        [r"(-\infty,0]", r"\left(-\infty, 0\right]", r"x \le 0"],
        [r"(-\infty, 0)", r"[0, \infty)", r"(-\infty, 1]", "x<0"],
    ),
    r"(5,\infty)": (
        [r"(5, \infty)", r"\left(5,\infty\right)", "x>5", r"(5,+\infty)"],
        [r"[5,\infty)", r"(-\infty,5)", r"(6,\infty)"],
    ),
    r"(-\infty, 2) \cup (3, \infty)": (
        [r"(3,\infty)\cup(-\infty,2)", r"\left(-\infty,2\right)\cup\left(3,\infty\right)"],
        [r"(-\infty, 2] \cup (3, \infty)", r"(-\infty, 2) \cup [3, \infty)", r"(-\infty, 2)", "(2,3)"],
    ),
    r"x \in [-2,7]": (
        ["[-2,7]", r"x\in[-2, 7]", r"-2 \le x \le 7", r"\left[-2,7\right]"],
        ["(-2,7)", "[-2,7)", "[-2,8]", "[2,7]"],
    ),
    # expressions, equations, matrices
    "p - q": (["p-q", "-q+p", "-(q-p)"], ["q-p", "p+q", "pq", "p-2q"]),
    "-13x+3": (["3-13x", "-13x + 3", "3 - 13 x"], ["13x+3", "-13x-3", "-12x+3", "-13x^2+3", "-13y+3"]),
    "(a+5)(b+2)": (["(b+2)(a+5)", "ab+2a+5b+10"], ["(a+2)(b+5)", "(a+5)(b-2)", "ab+10"]),
    "6r^2-4r-24": (["2(3r^2-2r-12)", "6r^2 - 4r - 24"], ["6r^2+4r-24", "6r^3-4r-24", "6r^2-4r-23"]),
    "x^5 - x^4 + x^3 - x^2 + x - 1": (
        ["x^5-x^4+x^3-x^2+x-1", "(x-1)(x^4+x^2+1)"],
        ["x^5-x^4+x^3-x^2+x+1", "x^6-x^4+x^3-x^2+x-1", "x^5+x^4+x^3+x^2+x+1"],
    ),
    r"\frac{11+9a}{20}": (
        [r"\frac{9a+11}{20}", r"0.05(9a+11)", r"\frac{11}{20}+\frac{9a}{20}"],
        [r"\frac{11-9a}{20}", r"\frac{9+11a}{20}", r"\frac{11+9a}{21}"],
    ),
    r"\cot x": (
        [r"\cot(x)", r"\frac{\cos x}{\sin x}", r"\frac{1}{\tan x}"],
        [r"\tan x", r"\cot y", r"-\cot x", r"\cot 2x"],
    ),
    "x=5": (["5", "x = 5"], ["x=6", "x=-5", "y=5", "x>5"]),
    "y = 2x + 3": (["y=2x+3", "y = 3+2x", "2x+3"], ["y=2x-3", "y=3x+2", "x=2y+3", "y=2x+4"]),
    "5x - 7y + 11z + 4 = 0": (
        ["5x-7y+11z+4=0", "-5x+7y-11z-4=0", "5x-7y+11z=-4"],
        ["5x-7y+11z-4=0", "5x+7y+11z+4=0", "5x-7y+11z=4", "5x-7y+11z+4"],
    ),
    r"\begin{pmatrix} -7 \\ 16 \\ 5 \end{pmatrix}": (
        [r"\begin{pmatrix}-7\\16\\5\end{pmatrix}", r"\begin{bmatrix} -7 \\ 16 \\ 5 \end{bmatrix}"],
        [
            r"\begin{pmatrix} 7 \\ 16 \\ 5 \end{pmatrix}",
            r"\begin{pmatrix} 16 \\ -7 \\ 5 \end{pmatrix}",
            r"\begin{pmatrix} -7 \\ 16 \end{pmatrix}",
        ],
    ),
    r"\begin{pmatrix} -1 & 0 \\ 0 & -1 \end{pmatrix}": (
        [r"\begin{bmatrix} -1 & 0 \\ 0 & -1 \end{bmatrix}", r"\begin{pmatrix}-1&0\\0&-1\end{pmatrix}"],
        [
            r"\begin{pmatrix} 1 & 0 \\ 0 & 1 \end{pmatrix}",
            r"\begin{pmatrix} 0 & -1 \\ -1 & 0 \end{pmatrix}",
            r"\begin{pmatrix} -1 & 0 \\ 1 & -1 \end{pmatrix}",
        ],
    ),
    r"\begin{pmatrix} 1/5 \\ -18/5 \end{pmatrix}": (
        [r"\begin{pmatrix} \frac{1}{5} \\ -\frac{18}{5} \end{pmatrix}", r"\begin{pmatrix} 0.2 \\ -3.6 \end{pmatrix}"],
        [r"\begin{pmatrix} 1/5 \\ 18/5 \end{pmatrix}", r"\begin{pmatrix} -18/5 \\ 1/5 \end{pmatrix}"],
    ),
    # very small and very large numbers
    r"\frac{1}{2^{98}}": (
        [r"2^{-98}", r"1/2^{98}", r"\left(\frac{1}{2}\right)^{98}", r"\frac{2}{2^{99}}"],
        [r"\frac{1}{2^{99}}", r"2^{-97}", r"-\frac{1}{2^{98}}", "0"],
    ),
    r"2^{100}-1": ([r"-1+2^{100}", "1267650600228229401496703205375"], ["2^{100}", "2^{100}+1", "2^{101}-1"]),
    # words and choices
    r"\text{(B)}": (
        ["B", "(B)", r"\text{B}", r"\textbf{(B)}", r"\mathrm{(B)}", r"\text{ (B) }"],
        ["C", "(C)", r"\text{A}", r"\text{(BC)}"],
    ),
    r"\text{Evelyn}": (
        ["Evelyn", r"\textbf{Evelyn}", r"\text{ Evelyn }", r"\mathrm{Evelyn}"],
        ["Briana", r"\text{Carla}", r"\text{Eve}"],
    ),
    r"\text{even}": (
        ["even", r"\text{Even}", r"\mathrm{even}"],
        ["odd", r"\text{neither}", r"\text{neve}", r"\text{not even}"],
    ),
}

LENIENT: list[tuple[str, str]] = [
    ("50", r"50\%"),
    (r"90^\circ", r"90\%"),
    ("5", r"5\text{ cm}"),
    (r"12\text{ students}", r"12\text{ teachers}"),
    ("204", "204_5"),
    (r"\frac{1}{3}", "0.333333"),
    (r"\pi", "3.141593"),
    ("(1,2)", "1,2"),
    ("1,2", "(2,1)"),
    ("(1,2,3)", "[1,2,3]"),
    ("5", "5,5"),
    ("5", "y=5"),
    ("3", "1 2"),
    ("x^2", "X^2"),
    ("east", "seat"),
]
