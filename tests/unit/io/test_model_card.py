"""A pipeline's card tells whose footage is in it, in Markdown that the footage cannot break."""

from t2v.io.model_card import table, write_model_card


def test_the_card_counts_the_clips_of_every_source_and_licence_and_keeps_the_data_card(tmp_path):
    rows = [{"source": "some | <b>body</b>", "license": "CC0-1.0"}] * 3
    rows += [{"source": "", "license": ""}, {"source": "zoo", "license": "CC-BY-4.0"}]
    (tmp_path / "DATA.md").write_text("# Data\n\n5 clips kept.\n")
    write_model_card(tmp_path, "Made so.", str(tmp_path / "manifest.jsonl"), rows, 4)
    card = (tmp_path / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: diffusers\n")
    assert "Made so." in card
    assert r"| some \| \<b\>body\</b\> | CC0-1.0 | 3 | 0 |" in card
    assert "| unknown | unknown | 1 | 0 |" in card
    assert "| zoo | CC-BY-4.0 | 0 | 1 |" in card
    assert "\n## Data\n\n5 clips kept.\n" in card


def test_a_reviewed_manifest_brings_its_own_data_card(tmp_path):
    (tmp_path / "DATA.md").write_text("# Data\n\nas curated\n")
    (tmp_path / "clips.reviewed.md").write_text("# Data\n\nas reviewed\n")
    (tmp_path / "clips.md").write_text("somebody's notes\n")
    for name, told in (("clips.reviewed", "as reviewed"), ("clips", "as curated")):
        write_model_card(tmp_path, "Made so.", str(tmp_path / f"{name}.jsonl"), [], 0)
        assert (tmp_path / "README.md").read_text().endswith(f"\n## Data\n\n{told}\n")


def test_a_cell_stays_one_cell_of_plain_text():
    [head, rule, row, end] = table(("a", "b"), [("x\n| y\x1b[1m", 0.25)])
    assert (head, rule, end) == ("| a | b |", "| --- | --- |", "")
    assert row == r"| x \| y\[1m | 0.2 |"
    assert table(("a",), []) == []
