"""Published annotation files: a small invented file of each format, and invalid ones."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from properties import examples

from minivideococa.evaluation.annotations import FORMATS, read_annotations
from minivideococa.evaluation.manifest import Entry, read_manifest, write_manifest

MSRVTT = {
    "info": {"year": "2099"},
    "videos": [
        {
            "category": 9,
            "url": "u",
            "video_id": "video7",
            "start time": 1.5,
            "end time": 9.0,
            "split": "train",
            "id": 7,
        },
        {"video_id": "video8", "split": "validate"},
        {"video_id": "video9", "split": "test"},
    ],
    "sentences": [
        {"caption": "two cats knit", "video_id": "video8", "sen_id": 1},
        {"caption": "a dog reads", "video_id": "video7", "sen_id": 0},
        {"caption": "cats with wool", "video_id": "video8", "sen_id": 2},
    ],
}
QA = [
    {"answer": "knit", "category_id": 3, "id": 5, "question": "what do the cats do?", "video_id": 8},
    {"answer": "wool", "category_id": 3, "id": 6, "question": "what do they use?", "video_id": 8},
]
ACTIVITYNET_Q = [
    {"video_name": "a-B_c", "question": "is the cat knitting indoors", "question_id": "v_a-B_c_2"},
    {"video_name": "_-9", "question": "what does the dog read ", "question_id": "v__-9_1"},
]
ACTIVITYNET_A = [
    {"answer": "book", "type": 0, "question_id": "v__-9_1"},
    {"answer": "yes", "type": 3, "question_id": "v_a-B_c_2"},
]
NEXT_QA = (
    "video,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4\n"
    "2440175990,369,640,480,why does the cat knit,3,6,CW,to sleep,cold,for fun,wool is left,play\n"
    '37,2697,640,480,"what did the dog do, at last",0,1,TP,"sit, read",jump,bark,run,eat\n'
)
IVQA = (
    "video_id,start,end,question,answer1,answer2,answer3,answer4,answer5\n"
    "a-B_c,12,20.5,what does the cat hold?,wool,wool,ball of wool,yarn,wool\n"
    "_-9,0,7,what is read?,book,book,book,book,book\n"
)
ACTIVITYNET = {
    "v_a-B_c": {
        "duration": 8.5,
        "timestamps": [[0, 3.2], [3.2, 8.5]],
        "sentences": ["A cat sits.", " It\u2028knits. "],
    },
    "v__-9": {"duration": 2, "timestamps": [[0, 2]], "sentences": ["A dog reads."]},
}
KINETICS = (
    'label,youtube_id,time_start,time_end,split\n"cat\'s knitting, slow",-a_B,7,17,validate\n'
    "dog reading,xyz,120,130.0,train\n"
)

# format -> a file's name, its text, the entries that it says; videos as the data set names them
FILES: dict[str, tuple[str, str, list[Entry]]] = {
    "msrvtt": (
        "info.json",
        json.dumps(MSRVTT),
        [
            Entry(Path("video7.mp4"), ("a dog reads",)),
            Entry(Path("video8.mp4"), ("two cats knit", "cats with wool")),
            Entry(Path("video9.mp4")),
        ],
    ),
    "msrvtt-1ka": (
        "test.csv",
        'key,vid_key,video_id,sentence\nret0,msr7,video7,"a dog, who reads"\nret1,msr8,video8,cats\r\n',
        [Entry(Path("video7.mp4"), ("a dog, who reads",)), Entry(Path("video8.mp4"), ("cats",))],
    ),
    "msrvtt-qa": (
        "test_qa.json",
        json.dumps(QA),
        [
            Entry(Path("video8.mp4"), question="what do the cats do?", answer="knit"),
            Entry(Path("video8.mp4"), question="what do they use?", answer="wool"),
        ],
    ),
    "msvd-qa": (
        "test_qa.json",
        json.dumps([{key: value for key, value in item.items() if key != "category_id"} for item in QA]),
        [
            Entry(Path("vid8.avi"), question="what do the cats do?", answer="knit"),
            Entry(Path("vid8.avi"), question="what do they use?", answer="wool"),
        ],
    ),
    "activitynet-qa": (
        "test_q.json",
        json.dumps(ACTIVITYNET_Q),
        [
            Entry(
                Path("v_a-B_c.mp4"),
                question="is the cat knitting indoors",
                answer="yes",
                question_type="free/yes or no",
            ),
            Entry(
                Path("v__-9.mp4"), question="what does the dog read ", answer="book", question_type="motion"
            ),
        ],
    ),
    "next-qa": (
        "val.csv",
        NEXT_QA,
        [
            Entry(
                Path("2440175990.mp4"),
                question="why does the cat knit",
                answer="wool is left",
                choices=("to sleep", "cold", "for fun", "wool is left", "play"),
                question_type="causal/why",
            ),
            Entry(
                Path("37.mp4"),
                question="what did the dog do, at last",
                answer="sit, read",
                choices=("sit, read", "jump", "bark", "run", "eat"),
                question_type="temporal/previous",
            ),
        ],
    ),
    "ivqa": (
        "test.csv",
        IVQA,
        [
            Entry(
                Path("a-B_c.mp4"),
                question="what does the cat hold?",
                answers=("wool", "wool", "ball of wool", "yarn", "wool"),
                start=12,
                end=20.5,
            ),
            Entry(Path("_-9.mp4"), question="what is read?", answers=("book",) * 5, start=0, end=7),
        ],
    ),
    "activitynet": (
        "val_1.json",
        json.dumps(ACTIVITYNET),
        [Entry(Path("v_a-B_c.mp4"), ("A cat sits. It knits.",)), Entry(Path("v__-9.mp4"), ("A dog reads.",))],
    ),
    "kinetics": (
        "train.csv",
        KINETICS,
        [
            Entry(Path("cat's knitting, slow/-a_B_000007_000017.mp4"), labels=("cat's knitting, slow",)),
            Entry(Path("dog reading/xyz_000120_000130.mp4"), labels=("dog reading",)),
        ],
    ),
    "ucf101": (
        "trainlist01.txt",
        "CatKnitting/v_CatKnitting_g01_c01.avi 1\r\n\nYoYo/v_YoYo_g25_c04.avi 2\n"
        "PlayingTheDogAndCat/v_PlayingTheDogAndCat_g09_c03.avi\n",
        [
            Entry(Path("CatKnitting/v_CatKnitting_g01_c01.avi"), labels=("cat knitting",)),
            Entry(Path("YoYo/v_YoYo_g25_c04.avi"), labels=("yo yo",)),
            Entry(
                Path("PlayingTheDogAndCat/v_PlayingTheDogAndCat_g09_c03.avi"),
                labels=("playing the dog and cat",),
            ),
        ],
    ),
}
formats = pytest.mark.parametrize("format", FILES)


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """An empty folder. Beside it is the file with the answers that belong to ActivityNet-QA's questions."""
    folder = tmp_path / "clips"
    folder.mkdir()
    put(tmp_path, "test_a.json", json.dumps(ACTIVITYNET_A))
    return folder


def put(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refusal(format: str, path: Path, clips: Path, split: str | None = None) -> str:
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        read_annotations(format, path, clips, split)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_format_has_an_example():
    assert FILES.keys() == FORMATS.keys()


@formats
def test_entries_of_a_file(format, tmp_path, clips):
    """Without clips each entry has the path of the data set. A byte order mark is ignored."""
    name, text, entries = FILES[format]
    expected = [replace(entry, video=clips / entry.video) for entry in entries]
    assert read_annotations(format, put(tmp_path, name, text), clips) == expected
    assert (
        read_annotations(format, put(tmp_path, name, b"\xef\xbb\xbf" + text.encode()), str(clips)) == expected
    )
    write_manifest(tmp_path / "m.jsonl", expected)
    assert read_manifest(tmp_path / "m.jsonl") == expected


@formats
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".AVI"])
@pytest.mark.parametrize("folder", ["", "some folder"])
def test_clips_are_found_by_their_stems(format, suffix, folder, tmp_path, clips):
    name, text, entries = FILES[format]
    for entry in entries[1:]:
        place = clips / folder / (entry.video.stem + suffix)
        place.parent.mkdir(exist_ok=True)
        place.touch()
        place.with_suffix(".json").touch()  # what downloaders leave beside a clip
        place.with_suffix(".mp4.part").touch()
    read = read_annotations(format, put(tmp_path, name, text), clips)
    assert [entry.video for entry in read[1:]] == [
        clips / folder / (entry.video.stem + suffix) for entry in entries[1:]
    ]
    if format not in ("msrvtt-qa", "msvd-qa"):  # there the first and the second are the same clip
        assert read[0].video == clips / entries[0].video and not read[0].video.exists()


def test_clip_names_with_and_without_v_(tmp_path, clips):
    name, text, _ = FILES["activitynet"]
    for clip in ("a-B_c.mkv", "v__-9.webm", "v__-9.avi"):
        (clips / clip).touch()
    read = read_annotations("activitynet", put(tmp_path, name, text), clips)
    assert [entry.video.name for entry in read] == ["a-B_c.mkv", "v__-9.webm"]


def test_splits(tmp_path, clips):
    info, kinetics = put(tmp_path, "info.json", json.dumps(MSRVTT)), put(tmp_path, "all.csv", KINETICS)
    for split, video in (
        ("train", "video7"),
        ("val", "video8"),
        ("validate", "video8"),
        ("validation", "video8"),
        ("test", "video9"),
    ):
        assert [entry.video.stem for entry in read_annotations("msrvtt", info, clips, split)] == [video]
    assert [entry.labels for entry in read_annotations("kinetics", kinetics, clips, "train")] == [
        ("dog reading",)
    ]
    assert refusal("kinetics", kinetics, clips, "test").endswith(
        "all.csv: has no split 'test', but train, validate"
    )
    assert "give none" in refusal("ucf101", put(tmp_path, "list.txt", FILES["ucf101"][1]), clips, "train")


@formats
@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "{",
        "[]",
        "{}",
        "[1]",
        '{"a": 1}',
        '{"a": {"sentences": [3]}}',
        "a,b\n1,2\n",
        '{"videos": [{}], "sentences": []}',
        '{"videos": 3}',
        "null",
        "\ud800",
    ],
)
def test_files_of_another_format_are_refused(format, wrong, tmp_path, clips):
    path = put(tmp_path, "wrong", wrong.encode("utf-8", "surrogatepass"))
    message = refusal(format, path, clips)
    assert message.startswith(f"{path}: ") and message.endswith(
        f"; it should look like {FORMATS[format].example}"
    )


@pytest.mark.parametrize(
    "format, change, complaint",
    [
        (
            "msrvtt",
            lambda text: text.replace('"caption"', '"text"'),
            '"caption" is missing or no text in {"text": "two cats knit"',
        ),
        (
            "msrvtt",
            lambda text: text.replace('"video_id": "video7", "start', '"video_id": "video6", "start'),
            "about 'video7'",
        ),
        ("msrvtt", lambda text: text.replace('"test"', "1"), '"split" is missing or no text'),
        ("msrvtt-1ka", lambda text: text.replace("sentence", "text"), "no column sentence"),
        ("msrvtt-1ka", lambda text: text.replace(",cats", ""), "line 3: sentence is missing"),
        (
            "msrvtt-qa",
            lambda text: text.replace('"answer": "wool"', '"answer": 0'),
            'item 2: "answer" is missing',
        ),
        ("msrvtt-qa", lambda text: text.replace("8", '"8"'), '"video_id" is missing or no number'),
        ("msvd-qa", lambda text: text.replace('"video_id"', '"video"'), '"video_id" is missing or no number'),
        (
            "activitynet-qa",
            lambda text: text.replace("v__-9_1", "v_1"),
            "question 2: there is no answer to 'v_1'",
        ),
        ("activitynet-qa", lambda text: text.replace('"a-B_c"', "8"), 'question 1: "video_name" is missing'),
        ("next-qa", lambda text: text.replace("CW", "XY"), 'line 2: type is "XY", not one of CW, CH'),
        ("next-qa", lambda text: text.replace(",0,1,TP", ",5,1,TP"), 'line 3: answer is "5", not the number'),
        ("next-qa", lambda text: text.replace(",run,eat", ""), "line 3: a3 is missing"),
        ("next-qa", lambda text: text.replace("a4", "b"), "no column a4"),
        ("ivqa", lambda text: text.replace("answer5", "answer"), "no column answer5"),
        ("ivqa", lambda text: text.replace("20.5", "soon"), "line 2: a time of 'a-B_c' is \"soon\""),
        ("ivqa", lambda text: text.replace("a-B_c", " "), "line 2: video_id is missing"),
        ("activitynet", lambda text: text.replace('["A dog reads."]', "[]"), "sentences of 'v__-9' are []"),
        ("kinetics", lambda text: text.replace("120", "soon"), "a time of 'xyz' is \"soon\""),
        ("kinetics", lambda text: text.replace("120", "inf"), "a time of 'xyz' is \"inf\""),
        ("kinetics", lambda text: text.replace("xyz", " "), "line 3: youtube_id is missing"),
        ("ucf101", lambda text: text.replace("YoYo/", ""), 'line 3: "v_YoYo_g25_c04.avi 2" is not a clip'),
    ],
)
def test_errors_name_the_line_or_item(format, change, complaint, tmp_path, clips):
    name, text, _ = FILES[format]
    path = put(tmp_path, name, change(text))
    message = refusal(format, path, clips)
    assert message.startswith(f"{path}: ") and complaint in message and FORMATS[format].example in message


@pytest.mark.parametrize(
    "answers, complaint",
    [
        ("{", "test_a.json: not JSON"),
        ('{"v": 1}', "the file with the answers is not a list"),
        (json.dumps(ACTIVITYNET_A[:1]), "question 1: there is no answer to 'v_a-B_c_2'"),
        (json.dumps(ACTIVITYNET_A).replace("3", "9"), 'answer 2: "type" is 9, not 0 to 8'),
        (json.dumps(ACTIVITYNET_A).replace("0", "true"), 'answer 1: "type" is missing or no number'),
    ],
)
def test_errors_of_the_file_with_the_answers(tmp_path, clips, answers, complaint):
    questions = put(tmp_path, "test_q.json", json.dumps(ACTIVITYNET_Q))
    put(tmp_path, "test_a.json", answers)
    assert complaint in refusal("activitynet-qa", questions, clips)


def test_the_file_with_the_answers_is_beside_the_questions(tmp_path, clips):
    (tmp_path / "test_a.json").rename(tmp_path / "val_a.json")
    content = json.dumps(ACTIVITYNET_Q)
    assert len(read_annotations("activitynet-qa", put(tmp_path, "val_q.json", content), clips)) == 2
    message = refusal("activitynet-qa", put(tmp_path, "test_q.json", content), clips)
    assert "test_a.json" in message and "belongs to" in message
    assert "should end in _q.json" in refusal("activitynet-qa", put(tmp_path, "val.json", content), clips)


def test_an_ivqa_file_without_times_is_about_whole_videos(tmp_path, clips):
    text = "question,video_id,answer1,answer2,answer3,answer4,answer5\nwhat?,v,a,b,b,a,c\n"
    [entry] = read_annotations("ivqa", put(tmp_path, "test.csv", text), clips)
    assert (entry.start, entry.end, entry.answers, entry.answer) == (None, None, tuple("abbac"), "a")


@formats
@settings(max_examples=examples(40), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_are_read_or_refused_in_one_line(format, data, tmp_path, clips):
    """A part of the file is replaced by random text."""
    name, text, _ = FILES[format]
    begin = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(begin, min(len(text), begin + 20)))
    path = put(tmp_path, name, text[:begin] + data.draw(st.text('{}[]",:\n\0a1/', max_size=4)) + text[end:])
    try:
        assert all(isinstance(entry, Entry) for entry in read_annotations(format, path, clips))
    except ValueError as error:
        assert str(error).startswith(f"{path}: ") and "\n" not in str(error)


def test_an_unclosed_quote_is_refused(tmp_path, clips):
    """The csv module limits the size of a cell."""
    assert "field" in refusal("kinetics", put(tmp_path, "train.csv", KINETICS + '"' + "x" * 200_000), clips)


def test_missing_files_folders_and_formats(tmp_path, clips):
    assert "no such file" in refusal("msrvtt", tmp_path / "none.json", clips)
    path = put(tmp_path, "info.json", json.dumps(MSRVTT))
    assert "no such folder" in refusal("msrvtt", path, tmp_path / "none")
    assert "no such folder" in refusal("msrvtt", path, path)
    assert "give one of msrvtt, " in refusal("msvd", path, clips)
