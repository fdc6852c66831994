"""English phrases that give away a defective caption: other scenes, or a telling by frames.

The rules are regular expressions in a shorthand that keeps them readable: `<film>` stands for the
row `film` of `WORDS`, a blank for any white space, and a group captures nothing.
"""

from __future__ import annotations

import re

WORDS = {
    "film": "(scene|video|clip|footage|shot|sequence|film|movie|montage|animation)",
    "place": "(setting|location|perspective|viewpoint)",
    "adverb": r"( (then|now|next|also|soon|later|\w+ly))*",
    "change": (
        "(transition|cut|switch|shift|jump|dissolve|fade|dissolv|fad)"
        r"(e?s|e?d|t?ing|p?ing)?( (back|away|over|out|forward|ahead|\w+ly))*"
    ),
    "later": (
        "(next|other|following|second|third|fourth|fifth|final|last|subsequent|new|"
        "another|different)"
    ),
    "ordinal": (
        "(first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|next|last|"
        "final|initial|following|subsequent|successive|previous|middle|opening|closing|"
        r"remaining|later|earlier|\d+(st|nd|rd|th))"
    ),
    "number": r"(\d+|one|two|three|four|five|six|seven|eight|nine|ten)",
    "show": (
        "(shows?|depicts?|displays?|features?|captures?|presents?|reveals?|introduces?|"
        "contains?|illustrates?|focuses|continues?|starts|begins|opens|zooms|sees|"
        "showing|depicting)"
    ),
    "frame": "(frame|image|still|screenshot|keyframe|snapshot)",
    "frames": "(frames|images|stills|screenshots|keyframes|snapshots)",
    "shots": "(scenes|shots|clips|views|settings|locations|sequences)",
    "many": "(various|several|multiple|different|many|numerous|unrelated|two|three|four|five)",
    # a picture in the picture, not one of the video
    "hanging": (
        "(?! (on|above|hung|hanging|hangs?|beside|leaning|over|behind|next to|line|cover|"
        "projected|adorn|of the hive))"
    ),
    "start": r"(^|[,:]\s*(and )?)",
}


def _compiled(*rules: str) -> re.Pattern[str]:
    """One pattern that finds what any of the rules finds."""
    pattern = "|".join(f"({rule})" for rule in rules)
    pattern = re.sub(r"<(\w+)>", lambda name: WORDS[name[1]], pattern)
    return re.compile(re.sub(r"\((?!\?)", "(?:", pattern).replace(" ", r"\s+"))


TRANSITION = _compiled(
    # The scene then cuts to a kitchen. The setting changes from a beach to a bar.
    r"\b(the|this) <film><adverb> <change> (to|into|from|between)\b",
    r"\bthe <film><adverb> (switches|transitions|dissolves|alternates|shifts focus)\b",
    r"\b(the|this) (<film>|<place>)<adverb> ((changes|switches)|moves( on)?|shifts) "
    r"(to|from)\b",
    r"\b(the camera|we)<adverb> (cuts?|transitions?|switch(es)?)( (back|away))? "
    r"(to|into|between)\b",
    # The video begins with a man cooking and then transitions to a beach.
    r"\b<film> (begins|starts|opens|opened|started|began)\b.{0,300}?\b"
    r"(then|and|before|later|finally|eventually)\b<adverb> <change> (to|into)\b",
    r"\b<film> <show>\b((?!\b(who|which|that|whose|as|while)\b).){0,300}?"
    r"\b(then|before)<adverb> <change> (to|into)\b",
    # In the next scene, a dog runs. The next scene takes place in a bar.
    r"\bin ((the|an?) )?<later> (scene|shot|clip|sequence|segment)\b",
    r"\bin (the|a|an) <later> (part|half) of the <film>\b",
    r"<start>(the|a) <later> (scene|clip|segment) (?!(of|in|from|with)\b)\w+",
    r"\bthe <later> (scene|shot|clip|sequence|segment) <show>\b",
    # It dissolves into a shot of a beach, followed by a close-up shot of a hand.
    r"\b<change> (to|into) (a|an|the|another)?\s*([\w-]+ )?(scene|shot|sequence|view|clip) "
    r"(of|where|in which|showing)\b",
    r"\b(followed by|before|interspersed with|alternat\w+ between) "
    r"(a|an|the|another|several)?\s*([\w-]+ ){0,2}(scenes?|shots?|clips?) of\b",
    # The broadcast cuts to Rome. As the clip goes on, the focus shifts from him to a dog.
    r"\bthe (broadcast|action|picture|segment|story|view|report|angle|camera angle)<adverb> "
    r"(cuts|switches|transitions|shifts|jumps|moves) (back )?(to|into|from)\b",
    r"\b(<film>|segment) (\w+ly )?(jumps|alternates|moves) (from|between)\b",
    r"\bas the <film> (progresses|continues|goes on|unfolds)\b.{0,20}"
    r"\bthe (focus|setting|scene|view) (shifts|changes|switches)\b",
    # It begins in a stable and ends on a track. First we see a bride, then the groom.
    r"\b(<film>|it|we) (begins|starts|opens|begin|start) (in|on|at|with)\b.{0,200}"
    r"\b(and|then|but|soon|before)\b.{0,20}(\bwe (see|are|find)\b"
    r"|\b(ends|finishes|concludes) (in|on|at|with)\b|\bfades into\b)",
    r"\b(<film> first <show>|first,? we (see|are shown))\b.{0,200}"
    r"\b(then|afterwards|later|after that|finally)\b",
    "^(next|then|after (this|that)|later|afterwards|finally),? "
    r"(the <film> (<show>|moves|jumps)\b|we (are (taken|shown|back|in|at)|find|move|go)\b)",
    r"\b(we are|viewer is) (then |briefly )?(taken|shown|brought|transported)\b",
    r"\b<film> (concludes|ends|closes|finishes) with (an?|the) "
    r"([\w-]+ ){0,2}(shot|scene|view|close-?up|clip)\b",
    # In another part of the video, a mechanic works. The first half shows a gym.
    r"\b(first|<later>) (part|half|portion|segment|section) of the <film>\b",
    r"\b<film> is (split|divided) into\b",
    r"\blater (on )?in the <film>\b",
    # Different views of it are shown. Scenes of war alternate with scenes of peace.
    r"\b<many> ([\w-]+ )?<shots>\b.{0,60}\b(are shown|follow|one after)\b",
    r"\b<film> (<show>|shows) <many> ([\w-]+ )?(scenes|shots|clips)\b",
    r"\b(scenes|shots|clips|footage)\b.{0,60}\b(alternates? with|gives? way to)\b",
    r"\bintercut(s|ting)?\b",
    r"^(an?|the) (\w+ )?(montage|compilation)\b",
    r"\b<film> is an? (\w+ )?(montage|compilation|collage|mix)\b",
    # The opening shot is of a tower. There are several cuts. After a fade, he sits.
    r"\bthe (opening|closing|concluding|<later>) (shot|scene|clip) (is|<show>)\b",
    r"\b(<many>|a few) (quick |fast )?(cuts|transitions) (between|from|to)\b",
    r"\b(quick|sudden|abrupt|hard|smooth|brief|gradual) (cut|transition|dissolve) "
    r"(from|between|into)\b",
    r"\bafter an? (\w+ )?(fade|transition|dissolve|black screen),",
    r"\bcuts? to black\b",
    r"\b(the|this) (<film>|shot of [^,.]{1,40}) (\w+ly )?dissolves\b",
    r"\bfollowed by (an?|the|another) ([\w-]+ ){0,2}(scene|shot|clip|view) "
    r"(where|in which|showing|with|that)\b",
    r"\b(suddenly|now),? the (picture|<film>) (is|shows)\b",
    # It fades to black.
    r"\b(<film>|screen|image|picture|view|^it) (\w+ly )?(cross-?)?fades "
    r"(in|out|to|into|from)\b",
    r"\bthe (screen|picture|image) (goes|turns) (black|white|dark)\b",
    r"(^|[,:;]\s*|\bwith an? |\b(slow|quick|gentle) )fad(e|es|ing) "
    r"(in|out|(in )?from|(out )?to) (from |to )?(black|white)\b",
    # A scene change, a cut to the crowd, a montage of clips.
    r"\b(scene|shot|video) (transition|change|cut)s?\b(?! (colou?rs?|lanes?))",
    r"\b(abrupt|jump|hard|smooth|quick|sudden) (cut|transition) (to|between) "
    r"(a|an|another|the next)\b",
    r"^(an? )?(cut|transition(ing)?|dissolve|jump) (to|into)\b",
    r"\b(series|montage|compilation|collection|sequence) of "
    r"([\w-]+ ){0,2}(clips|shots|scenes)\b",
    r"\b(various|several|multiple|different|many) (clips|shots|scenes) (of|are|from|show)\b",
    r"\b<film> (consists of|is (made up of|divided into)|contains|includes) "
    r"(\w+ ){1,2}(scenes|shots|clips|parts|segments)\b",
    r"\bwe (then )?see (another|a different) (scene|shot|clip)\b",
)
# counts only right after a sentence that `ABOUT_A_FILM` finds
TRANSITION_OF_IT = _compiled(r"^(it|this)<adverb> <change> (to|into|from|between)\b")
FRAME_BY_FRAME = _compiled(
    # In the first frame he stands. We move to the next image.
    r"\b(in|by|to|from) (the )?<ordinal> (and )?(\w+ )?<frame>s?\b<hanging>",
    r"\bin (each|every|all|both) (of )?(the )?<frame>s?\b<hanging>",
    r"^<ordinal> <frame>s?\s*[:,-]",
    r"\b(there are|consists of|in) <number> <frames>\b<hanging>",
    # The sixth and seventh frames show a car. Each subsequent frame captures more of it.
    r"\b(the|these|each|every) ((very )?<ordinal> ((and|to|through) )?){1,2}"
    r"((few|<number>) )?<frame>s?(,[^,]*,)? (\w+ly )?"
    r"(<show>|(is|are) (a|an|of|similar|identical|the same))\b",
    r"\b(each|every) <frame> <show>\b",
    # Frame 3: a dog. In frame 2 it sits.
    r"^(the )?<frame>s?\s*(\#|no\.?|number)?\s*<number>(\s*([:,)-]|and\b|to\b)| <show>| is\b)",
    r"\b(in|from|at|by) <frame>s?\s*(\#|number)?\s*<number>\b<hanging>",
    # The next frame has him seated. In later frames he smiles. All frames are of a street.
    r"\b(the|each|every|in|these|by) (<ordinal> ((and|to) (the )?)?){1,2}"
    r"(few |<number> )?frames?\b(?! of (the (match|game)|snooker))<hanging>",
    r"\b(in|on|from) (one|another|some|other|most|certain) (of the )?(<frame>s?)\b<hanging>",
    r"^(some|most|many|<number>) (of the )?frames <show>\b",
    r"\b(each|every) (frame|image) (is|has|appears|contains)\b",
    r"\ball (of )?(the|these|\d+|<number>) (frames|images|stills)\b<hanging>",
    r"\b(these|they) are ([\w-]+ )?(frames|stills|screenshots) (of|from)\b",
    r"\b<film> (contains|has|includes|shows|comprises) ([\w-]+ )?<number> <frames>\b",
    r"\b(picture|image|photo) (in|of) the (series|sequence)\b",
    r"^(as we|when) \w+ (through|along) the <frames>\b<hanging>",
    r"^looking at the (frames|images|stills)\b<hanging>",
    "^(the|these) <frames>,",
    r"\b(course|order|progression|sequence|series) of (the )?(\w+ )?(frames|images)\b<hanging>",
    # Across the frames he walks. The images show a cat. A sequence of images of a plant.
    r"\b(across|throughout|between|over) (all |all of )?(the|these|consecutive|successive) "
    r"(\w+ )?<frames>\b<hanging>",
    r"^(the|these|all|all the|both|other) ([\w]+ )?<frames> (\w+ly )?(<show>|appear|are)\b",
    r"^(the|this|a|an) (frame|image) sequence <show>\b",
    r"^(the|this|a|an|these)?\s*(<film> (is|shows|presents|consists of|features) )?"
    r"(a )?(series|sequence|set) of (\w+ )?<frames>\b<hanging>",
    r"\bfrom (one )?frame to (the next|frame)\b",
    r"\bframe[\s-]by[\s-]frame\b(?! (animation|technique))",
    r"^as the frames (progress|advance|continue)\b",
)
ABOUT_A_FILM = _compiled(r"^(the|this|a) (\w+ )?<film>\b")
