"""Write tests/golden/tokenizer.json: texts with open_clip's ids, and ids with open_clip's text."""

import json
from pathlib import Path

import ftfy
import numpy as np
import torch
from open_clip import tokenizer as open_clip

GOLDEN = Path(__file__).parents[1] / "golden" / "tokenizer.json"
TEXTS = """
a photo of a cat
A man is arm wrestling.
Two dogs, one ball; three runs: 4-3!
THE QUICK BROWN FOX
antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis
a green square is moving to the left while a small blue circle stays still
someone is slicing an onion in the kitchen
the man in the white t-shirt starts doing push-ups
a person rides a bike down a snow-covered hill and falls
question : what is the man doing ? answer : arm wrestling
a video of {}.
itap of the weird zebra, cropped (low-res JPEG)
big buck bunny wakes up & stretches
tschüß, façade-cleaning at 7am @ König-Ludwig-Straße
Ünïcödé wïth äççénts
x
!
!!! wow !!!
...and then???
it's we've you're I'm she'll he'd can't
IT'S WE'VE YOU'RE I'M SHE'LL HE'D CAN'T
'tis 'twas rock'n'roll o'clock 's 't 're
'' 'a' ''s 'ss s's
it’s a dog’s life, they‘re ‛ok‚
“double” „low‟ ‟high‟ «guillemets» ‹single› ″prime′
it'ſ the long s: ſtart, Congreſs, 'ſ 'ſſ
ſtrange <ſtart_of_text> <ſTART_of_text>
1234567890 3.14159 1,000,000 2024-02-29 10:30pm
½ ¾ ² ³ ⅷ Ⅷ ① ⑳ ٣٤٥ १२३ 〇一二三
No. 5, #7, $9.99, 50%, 3×4=12, 10°C, ±1
café naïve façade Übergröße Ångström señor
cafe\u0301 nai\u0308ve A\u030angstro\u0308m q\u0307\u0323 o\u0302\u0323
e\u0301\u0301\u0301 a\u0345 \u0345 \u0345b ᾳ ᾼ
İstanbul ISTANBUL ıstanbul I\u0307
ΑΣ ΟΔΥΣΣΕΥΣ σς Σ ΣΑΣ
STRASSE straße STRAẞE
Ꮳꮳ ǅ Ǆ ǆ ǈ ǋ ǲ ŉ Ĳ ĳ
ﬀ ﬁ ﬂ ﬃ ﬄ ﬅ ﬆ ﬂuﬃeﬆ oﬃce
ﬓ ﬔ ﬕ ﬖ ﬗ ﬠ יִ ﷺ
ＬＯＵＤ　ＮＯＩＳＥＳ １２３ ！＃（ａ）～
ﾊﾝｶｸ ｶﾞｷﾞ ﾊﾟ ｱ ｰ ｡ ｢｣ ￥ ￣ ￦ ￨
ﾡﾢﾣ ￂ ﾾ
Москва — столица России, ёлка и йод
Ελλάδα και Κύπρος, άνθρωπος
مرحبا بالعالم، كيف حالك؟ ١٢٣
السَّلامُ عَلَيْكُم \u200f \u202eabc\u202c
שלום עולם, מה שְׁלוֹמְךָ
नमस्ते दुनिया क्षत्रिय
สวัสดีชาวโลก ภาษาไทย
日本語のテキスト、東京タワー。
中文文本，没有空格 漢字
한국어 텍스트 \u1112\u1161\u11ab\u1100\u1173\u11af
𠮷野家 𝓗𝓮𝓵𝓵𝓸 𝟙𝟚𝟛 ℌ ℝ ℃ ™ ®
ꙮ 𒀀 𓀀 𐍈 ᚠᚢᚦ ᐁ ꀀ
😀 😂🤣 ❤ ❤️ ☺ ☺️ ✔ ✔️
👩‍👩‍👧‍👦 👨🏽‍🚀 🏳️‍🌈 🧑🏿‍🤝‍🧑🏻
🇩🇪🇫🇷 🇯🇵 🇺 🏴\U000e0067\U000e0062\U000e0077\U000e006c\U000e0073\U000e007f
dog🐶cat🐱3️⃣#️⃣
(╯°□°)╯︵ ┻━┻ ¯\\_(ツ)_/¯
→ ← ⇒ ∀x∈ℝ: x²≥0 ∑∏∫√∞ ≠≤≥
☃ ♫ ★ ✈ © § ¶ † ‡ • … – — ―
&amp; &lt;b&gt; &quot;q&quot; &#39;s it&#x27;s
a<b &amp; b>c &lt;br&gt;
<p>Fish &amp; chips</p> &eacute;
P&eacute;rez P&EACUTE;REZ &NTILDE;&ntilde;&nTILDE; STRA&SZLIG;E
&amp;amp; &amp;amp;amp;amp;lt; &amp;#39;
&copy 2020 &nbsp;&hellip; &notit; &notin; &GTCC; &semi; &amp&semi;
&#1234; &#x1F600; &#128; &#0; &#xD800; &#x110000; &#59; &#12x; &#x1;
&rsquo;s it&rsquo;s &ldquo;hi&rdquo; &rsquo
&Jscr;ohn &HilbertSpace; &bogus; &; &#; &#x;
line one\\nline two\r\\nline three\rline four\u2028five\u2029six
first &lt;line\\nsecond < line &hellip;\\nthird &amp;hellip; line &EACUTE;
  leading and trailing\t\ttabs\x0b\x0c and   runs \x20
non\u00a0breaking\u2003em\u2009thin\u3000ideographic\u1680ogham\u205f\u202f
next\u0085line zero\u200bwidth joiner\u200d non\u200cjoiner word\u2060join
soft\u00adhyphen \ufeffbom\ufeff \u180e
\x1b[31mred\x1b[0m \x1b[1;32mgreen\x1b[m \x1b[ \x1b[3 \x1b]0;t\x07
\x1b［３１ｍred \x1b[３1m \x1b[1ﬁ
nul\x00bell\x07back\x08del\x7f\x1c\x1d\x1e\x1f
\u206a\u206f\ufff9\ufffa\ufffb\ufffc\ufffd
c1 \x80 \x81 \x85 \x91x\x92 \x93x\x94 \x99 \x9f
lone \ud83d and \ude00 reversed \ude00\ud83d end \udfff
private \ue000 \uf8ff \U000f0000 unassigned \u0378
<start_of_text>
<end_of_text>
<START_OF_TEXT> <End_Of_Text>
a <end_of_text> b<start_of_text>c <end_of_text>d
5<end_of_text><start_of_text><end_of_text>6
!<end_of_text> .<start_of_text> (<end_of_text>)
!<end_of_text><start_of_text> <end_of_text>!<end_of_text>
<<end_of_text>> '<end_of_text> 's<end_of_text> _<end_of_text>
<end_of_text <start_of_text end_of_text> < end_of_text>
<|startoftext|> <|endoftext|> <s> </s> <pad> [CLS] </w> a</w>
é<end_of_text> \u0301<end_of_text> \u0345<end_of_text> 字<end_of_text>
&lt;end_of_text&gt; &#60;start_of_text&#62;
a<ſtart_of_text><end_of_text> !<ſtart_of_text><end_of_text>
<&#xFB06;art_of_text> <ﬆart_of_text>
&amp&#59; &amp&#x3b;lt&#59;
snake_case camelCase kebab-case dot.ted path/to/file C++ C# a_b
user@example.com https://example.com/?q=a+b&c=d#e @handle #hashtag
def f(x): return x**2  # comment
{"key": [1, 2, null]} $\\alpha_{i}$ `code` ~tilde^caret|pipe\\back
ab\u0300 \u0300 \u0300\u0301 ÀÁÂ a\u0327\u0301
ÅÅK Ω K \u212b\u2126 \u2019\u2019
\u02bcapostrophe n\u02bct ʻokina ʾ ʿ \u02b9
aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
hahahahahahahahahahahahahahahahahahahahahahahahahahahaha
\xe2 \xe9t\xe9 \xbfqu\xe9? \xa1hola! \xff \xb5
a . b , c ; d : e ? f ! g
1st 2nd 3rd 4th 1990s 5'10" 6ft7
mother-in-law's well-being co\u2011operate \u2012 \u2010
""".strip("\n").split("\n")
TEXTS = [text.replace("\\n", "\n") for text in TEXTS]
TEXTS += [
    "",
    " ",
    "\n\n",
    "\u200b",
    "\x00",
    "word " * 200,
    "a " * 74,
    "a " * 75,
    "é" * 500,
    "1" * 80,
    "🐶" * 40,
]
TEXTS += [
    f"a {object} {verb}"
    for object, verb in zip(
        ["red circle", "small skateboarder", "wooden toothbrush", "3D printer", "two-handed sword", "pie"],
        ["spinning", "falling apart", "glistening", "upside-down", "'til dawn", "in slow-motion"],
    )
]
TEXTS += ["a photo of my " + thing for thing in ["dog.", "dog !", "Dog's", "dogs'", "(dog)", "d-o-g"]]
IDS = [
    [49406, 320, 1125, 539, 320, 2368, 269, 49407, 0, 0],
    [49406, 320, 1125, 539, 320, 2368, 0, 0],  # never ended
    [320, 2368],
    [],
    [0, 0],
    [49406],
    [49407, 320],
    [49406, 0, 256, 0, 320, 0, 49407, 320],  # 0 is also the "!" inside a word
    [49406, 49406, 320, 49406, 2368, 49407, 49407],
    [49406, 128, 350, 99, 320, 188],  # half characters become U+FFFD
    [49406, 42891, 9106, 2368, 1, 5, 10, 49405],
]


def open_clip_ids(texts: list[str], context_length: int = 76) -> np.ndarray:
    """Return open_clip's ids, int64 [B, context_length]."""
    return open_clip.tokenize(texts, context_length).numpy()


def open_clip_text(ids: list[int]) -> str:
    """Decode generated ids as users of open_clip do; padding in place of an end is dropped here."""
    while ids and ids[-1] == 0 and 49407 not in ids:
        ids = ids[:-1]
    text = open_clip.decode(torch.tensor(ids, dtype=torch.long))
    return text.split("<end_of_text>")[0].replace("<start_of_text>", "").strip()


def make() -> dict[str, list]:
    """Return the content of the golden file; the padding of the ids is left out."""
    for text in TEXTS:  # the package does not repair mojibake, so no text may need it
        assert ftfy.fix_text(text) == ftfy.fix_text(text, fix_encoding=False), text
    encoded = [row[: np.flatnonzero(row)[-1] + 1].tolist() for row in open_clip_ids(TEXTS)]
    return {
        "encode": [list(pair) for pair in zip(TEXTS, encoded)],
        "decode": [[ids, open_clip_text(ids)] for ids in IDS],
    }


if __name__ == "__main__":
    lines = [f'"{name}": [\n' + ",\n".join(map(json.dumps, pairs)) + "\n]" for name, pairs in make().items()]
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")
