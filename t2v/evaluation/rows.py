"""The rows of a table: the model's videos, and those they are to be compared with."""

MODEL, CEILING, REAL = "model", "real clips through the VAE", "real clips"
CHANCE, GUESS = "another real clip", "most common answer"
STILL, BLUR = "real clips standing still", "real clips blurred"
TEXT = "text only"
TEACHER, OTHER_SEED = "teacher", "teacher, another seed"
HOLD, FADE, AS_GIVEN = "given frames held", "given frames cross-faded", "given clip unchanged"
ROWS = {
    MODEL: "the videos that the model sampled",
    TEACHER: "the videos that `teacher=` sampled of the same prompts, from the same noise",
    OTHER_SEED: "the teacher's videos of the same prompts from other noise: chance",
    CEILING: "the clips that the prompts describe, through the model's VAE: the ceiling",
    REAL: "those clips as they are",
    CHANCE: "the clip of another prompt: chance",
    GUESS: "the best constant answer, the same for every prompt: chance",
    STILL: "the first frame of each real clip, repeated: the score of standing still",
    BLUR: "real clips under a mean filter of 5 x 5 pixels: the score of blur",
    TEXT: "the model's videos of the same prompts and seeds, nothing given",
    HOLD: "each given frame repeated until the next one: the score of copying",
    FADE: "each given frame mixed with the next one, in proportion to their distance in time",
    AS_GIVEN: "the clip as it was given, nothing changed: the score of copying",
}
