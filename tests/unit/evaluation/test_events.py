"""Texts of single events find them in films of several, where the film as a whole hides them."""

import pytest
import torch

from t2v.evaluation.events import match_events

NAMES = ["a red ball rests at dusk", "a red ball spins at dusk", "a blue ball rests at dusk"]


class Looking:
    """An event is the shade of its frames; a film is the mean of its own."""

    def embed_video(self, video):
        shades = torch.nn.functional.one_hot(video[:, :, 0, 0, 0].long(), 4).float()
        return torch.nn.functional.normalize(shades.mean(1), dim=-1).unsqueeze(1)

    def embed_text(self, texts):
        return torch.eye(4)[[NAMES.index(text) for text in texts]]


def film(*shades):
    return torch.tensor(shades, dtype=torch.uint8).repeat_interleave(9).reshape(-1, 1, 1, 1)


def scenes(*shades):
    return tuple((9 * i, 9 * i + 9, NAMES[shade]) for i, shade in enumerate(shades))


def test_an_event_is_found_in_its_film_and_finds_it_among_others():
    shown = [(0, 1, 1), (0, 2, 2), (1, 1, 2)]
    video = torch.stack([film(*shades) for shades in shown]).expand(-1, -1, 2, 2, 3)
    told = match_events(Looking(), video, [scenes(*shades) for shades in shown])
    assert told["event found"]["share"] == told["film by event"]["share"] == 1
    assert told["event found"]["n"] == 9
    assert told["event found"]["chance"] == pytest.approx(1 / 3)
    assert told["film as a whole"]["chance"] == 1 / 3
    wrong = match_events(Looking(), video, [scenes(*shades[::-1]) for shades in shown])
    assert wrong["event found"]["share"] < 0.5


def test_films_without_events_of_a_length_do_not_count():
    video = torch.zeros(3, 18, 2, 2, 3, dtype=torch.uint8)
    short = ((0, 14, NAMES[0]), (14, 18, NAMES[1]))
    assert match_events(Looking(), video, [scenes(0, 1), short, ()]) == {}
    assert match_events(Looking(), video, []) == {}
