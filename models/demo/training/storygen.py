"""Procedural corpus: simple-English stories and small chat turns (written for this project, no third-party text).
Template language: [a|b|c] picks one (nests), {x} fills a slot, a sentence starting with '?' is optional."""

import random, re

F_NAMES = "Lily Mia Anna Ella Rosie Sara Lucy Emma Zoe Nora Ruby Daisy Molly Ivy Clara Hana Priya Amina Grace Maya Tess Olive Poppy June Leah Nina Ada Freya Maria Sofia Kate Jane Sue Amy Bella Chloe Lola Mila Elsa Wendy Tina Betty Alice Penny Holly Fern Hazel Pearl Ines Yuki".split()
M_NAMES = "Tom Ben Max Sam Leo Jack Tim Finn Noah Eli Oscar Hugo Omar Ravi Kofi Luca Theo Adam Henry Charlie Jake Will Dan Peter Toby Milo Felix Ollie Bob Joe Mark Alex Kai Nico Ivan Paul Sid Rex Louis Ned Gus Otto Arlo Ken Diego Amir Jonah Caleb Emil Lars".split()
PETS = "Pip Biscuit Pepper Nibbles Button Coco Hazel Whiskers Bumble Dot Fluffy Rusty Patch Sunny Tiny Waddle Ziggy Mango Pebble Clover Acorn Marble Snow Ginger Bubbles Scout Buddy Peanut Muffin Toffee Copper Willow Maple Honey Cocoa Sparky Dusty Misty Spot Socks Twig Bramble Benny Freddy Ricky Gilly Lulu Momo Koko Tuk".split()
SYL1 = "ba be bo da do fi fo ga go ka ki ko la le lo lu ma me mi mo na ne no pa pe pi po ra ri ro sa se so ta ti to va vi wa ya yo za zi zo dra flo gri kri pla sho ste tru quo bli cla".split()
SYL2 = "ba bby ck da ddle ffy ggy ka kin la lly lo ma mbo mi n na ndy ni nko nny pa ppy ra ri rin ro s ssa sh ta tto va vi x ya zi zzle rk lo mo do".split()
# animal: (place, food, where it sleeps, movement)
AN = {}
for row in """fox:forest:berries:den:ran|rabbit:meadow:carrots:burrow:hopped|bear:forest:honey:cave:walked|mouse:barn:cheese:hole:ran|owl:forest:seeds:tree:flew|
duck:pond:bread:nest:swam|frog:pond:flies:lily pad:hopped|cat:house:fish:basket:walked|dog:farm:bones:kennel:ran|puppy:garden:biscuits:basket:ran|kitten:house:milk:basket:ran|
squirrel:forest:nuts:tree:ran|hedgehog:garden:apples:nest:walked|turtle:pond:lettuce:shell:walked|elephant:jungle:bananas:tall grass:walked|lion:savanna:meat:tall grass:walked|
monkey:jungle:bananas:tree:climbed|penguin:ice:fish:nest:waddled|bee:garden:nectar:hive:flew|butterfly:meadow:nectar:flower:flew|bird:garden:worms:nest:flew|fish:sea:seaweed:cave:swam|
whale:sea:tiny fish:deep sea:swam|dolphin:sea:fish:bay:swam|crab:beach:seaweed:rock pool:walked|snail:garden:leaves:shell:crawled|ant:garden:crumbs:anthill:walked|ladybug:garden:leaves:leaf:flew|
pig:farm:corn:barn:ran|cow:farm:grass:barn:walked|horse:farm:hay:stable:ran|pony:farm:apples:stable:ran|sheep:farm:grass:barn:walked|lamb:meadow:grass:barn:jumped|goat:hill:grass:shed:climbed|
chick:farm:seeds:nest:ran|hen:farm:corn:nest:walked|goose:lake:grass:nest:walked|swan:lake:water plants:nest:swam|deer:forest:leaves:tall grass:ran|wolf:forest:meat:den:ran|badger:forest:roots:burrow:walked|
beaver:river:bark:lodge:swam|otter:river:fish:den:swam|raccoon:forest:corn:hollow tree:climbed|mole:garden:worms:tunnel:dug|bat:cave:bugs:cave:flew|parrot:jungle:fruit:tree:flew|tiger:jungle:meat:den:walked|
giraffe:savanna:leaves:tall grass:walked|zebra:savanna:grass:tall grass:ran|hippo:river:grass:mud:walked|camel:desert:dates:tent:walked|kangaroo:desert:grass:bush:hopped|koala:forest:leaves:tree:climbed|
panda:forest:bamboo:tree:climbed|seal:ice:fish:rock:swam|polar bear:ice:fish:snow cave:walked|snake:desert:eggs:warm rock:slid|lizard:desert:bugs:warm rock:ran|crow:field:corn:nest:flew|robin:garden:worms:nest:flew|
spider:barn:bugs:web:climbed|caterpillar:garden:leaves:leaf:crawled|worm:garden:soil:tunnel:crawled|firefly:meadow:dew:leaf:flew|octopus:sea:shells:cave:swam|starfish:sea:shells:rock:crawled|llama:hill:grass:shed:walked|
donkey:farm:hay:stable:walked|hamster:house:seeds:wheel:ran|peacock:park:seeds:tree:walked|moose:forest:leaves:clearing:walked|skunk:forest:berries:den:walked|chipmunk:forest:nuts:hole:ran|toad:pond:bugs:stone:hopped|
dragonfly:pond:bugs:reed:flew|shark:sea:fish:cave:swam|walrus:ice:clams:rock:swam|cub:forest:honey:den:ran|pigeon:city:crumbs:roof:flew""".replace(
    "\n", ""
).split("|"):
    a = row.split(":")
    AN[a[0]] = a[1:]
MAGIC = {}
for row in """robot:workshop:oil:corner:rolled|dragon:mountain:toast:cave:flew|princess:castle:cake:tower:walked|prince:castle:cake:tower:walked|knight:castle:soup:tent:rode|wizard:forest:soup:tower:walked|fairy:meadow:honey:flower:flew|
witch:forest:pumpkin pie:cottage:flew|giant:mountain:soup:cave:walked|unicorn:meadow:apples:glade:ran|mermaid:sea:seaweed:shell house:swam|pirate:sea:biscuits:ship:sailed|train:station:coal:shed:rolled|car:town:fuel:garage:drove|
boat:lake:wind:harbor:sailed|tractor:farm:fuel:barn:rolled|bus:city:fuel:garage:drove|rocket:moon:stardust:hangar:flew|snowman:garden:snow:snow hill:walked|cloud:sky:raindrops:hill:floated|star:sky:moonlight:sky:floated|
tree:forest:rain:forest:swayed|flower:garden:rain:garden:swayed|teapot:kitchen:tea:shelf:hopped|teddy bear:house:honey:bed:walked|doll:house:tea:shelf:walked|astronaut:moon:soup:spaceship:floated|farmer:farm:bread:cottage:walked|
baker:town:bread:cottage:walked|king:castle:cake:tower:walked|queen:castle:cake:tower:walked|fisherman:sea:fish:boat:sailed|gnome:garden:mushrooms:cottage:walked|elf:forest:berries:hollow tree:walked|monster:cave:jam:cave:walked|
ghost:castle:moonlight:attic:floated|dinosaur:jungle:leaves:cave:walked|kite:hill:wind:shelf:flew|leaf:forest:rain:branch:floated|pumpkin:field:rain:field:rolled|alien:moon:stardust:spaceship:floated|explorer:jungle:biscuits:tent:walked|
scarecrow:field:straw:field:walked|toy soldier:house:biscuits:toy box:walked|clockmaker:town:bread:cottage:walked|painter:town:bread:cottage:walked|sailor:sea:biscuits:ship:sailed|firefighter:city:soup:fire station:drove""".replace(
    "\n", ""
).split("|"):
    a = row.split(":")
    MAGIC[a[0]] = a[1:]
AT = {
    "ice": "on the ice",
    "hill": "on the hill",
    "mountain": "on the mountain",
    "sea": "by the sea",
    "pond": "by the pond",
    "lake": "by the lake",
    "river": "by the river",
    "moon": "on the moon",
    "farm": "on the farm",
    "beach": "on the beach",
    "savanna": "on the savanna",
    "sky": "in the sky",
    "station": "at the station",
    "house": "in the house",
}


def at(p):
    return AT.get(p, "in the " + p)


OBJ = (
    "red ball|blue ball|yellow kite|little boat|toy car|toy train|teddy bear|drum|shiny bell|golden key|blue hat|red scarf|warm blanket|wooden horse|paper plane|music box|silver coin|pretty shell|smooth stone|green bucket|"
    "picture book|box of paints|jump rope|little lamp|red wagon|soft pillow|purple button|straw basket|pair of boots|yellow umbrella|toy robot|little flute|magnifying glass|old map|big balloon|feather|glass marble|spinning top|"
    "doll|puzzle|wooden boat|pink ribbon|small mirror|brown bag|compass|toy castle|snow globe|whistle|tambourine|red crayon|flower crown|blue cup|cookie jar|lantern|necklace|watering can|wooden spoon|bicycle|scooter|little tent"
).split("|")
PLACES = "park|garden|forest|meadow|beach|farm|library|playground|market|hill|river|lake|village|zoo|school|barn|kitchen|attic|backyard|field|castle|town|museum|orchard|harbor|bakery|pond|cave|tree house|city".split(
    "|"
)
PL_AT = {
    "beach": "at the beach",
    "farm": "on the farm",
    "library": "at the library",
    "playground": "at the playground",
    "market": "at the market",
    "hill": "on the hill",
    "river": "by the river",
    "lake": "by the lake",
    "zoo": "at the zoo",
    "school": "at school",
    "museum": "at the museum",
    "harbor": "at the harbor",
    "bakery": "at the bakery",
    "pond": "by the pond",
    "tree house": "in the tree house",
}


def pat(p):
    return PL_AT.get(p) or AT.get(p) or "in the " + p


FOODS = "apple pie|soup|pancakes|cookies|bread|strawberries|cake|carrots|noodles|rice|muffins|jam|honey|cheese|blueberries|sandwiches|pizza|salad|porridge|cherries|oranges|ice cream|popcorn|pumpkin soup|plums|toast|peaches|tomatoes|corn|pears".split(
    "|"
)
SKILL = [
    ("ride a bike", "rode the bike", "fell off"),
    ("swim", "swam across the pool", "swallowed some water"),
    ("whistle", "whistled a happy tune", "made no sound at all"),
    ("draw a horse", "drew a beautiful horse", "drew something that looked like a potato"),
    ("tie a knot", "tied a perfect knot", "got all tangled up"),
    ("play the drum", "played a lovely beat", "dropped the sticks"),
    ("climb the tall tree", "climbed to the very top", "slid back down"),
    ("skate on the ice", "skated in a big circle", "slipped and fell"),
    ("bake bread", "baked a loaf of soft bread", "burned the bread"),
    ("read a book", "read a whole page aloud", "mixed up the letters"),
    ("dance", "danced all around the room", "tripped over two feet"),
    ("fly a kite", "made the kite fly high", "watched the kite crash"),
    ("sing a song", "sang the song from start to end", "forgot the words"),
    ("jump over the log", "jumped right over the log", "bumped into the log"),
    ("paint a rainbow", "painted a bright rainbow", "spilled the paint"),
    ("build a tower", "built a tower that did not fall", "saw the tower fall down"),
    ("catch a ball", "caught the ball with one hand", "missed the ball"),
    ("write a letter", "wrote a long letter to Grandma", "made a big ink spot"),
    ("plant a garden", "grew three rows of green plants", "forgot to water the seeds"),
    ("juggle", "juggled three oranges", "dropped every orange"),
    ("count to one hundred", "counted all the way to one hundred", "stopped at twenty-nine"),
    ("make a paper boat", "made a boat that could float", "tore the paper"),
]
FEAR = [
    ("the dark", "night"),
    ("thunder", "a storm"),
    ("deep water", "the lake"),
    ("loud noises", "the parade"),
    ("big dogs", "the neighbor's dog"),
    ("high places", "the tall slide"),
    ("spiders", "the shed"),
    ("speaking in class", "the school show"),
    ("going to the doctor", "the doctor's room"),
    ("the wind", "a windy night"),
]
GOOD = "kind|brave|clever|gentle|cheerful|curious|friendly|quiet|funny|happy|helpful|patient|playful|honest|thoughtful".split("|")
SIZE = "little|small|tiny|young|little|little|big".split("|")
COLOR = "red|blue|green|yellow|orange|purple|pink|brown|white|black|golden|silver|gray".split("|")
MORAL = {
    "share": "sharing makes everyone happy",
    "brave": "being brave means trying even when you are scared",
    "help": "a small act of kindness can make a big difference",
    "lost": "it is good to stay close and to ask for help",
    "learn": "practice makes things easier",
    "honest": "telling the truth is always best",
    "patient": "good things take time",
    "greedy": "it is better to take only what you need",
    "friend": "a friend can be found in any place",
    "team": "many hands make light work",
    "gift": "the best gifts come from the heart",
    "lie": "people trust you when you tell the truth",
    "try": "trying something new can be fun",
    "clever": "being clever is better than being strong",
    "nature": "we should take care of the world around us",
    "self": "it is good to be yourself",
    "sleep": "rest is good after a busy day",
    "listen": "it is wise to listen",
    "sorry": "saying sorry can mend a friendship",
}


class G:
    def __init__(s, seed=None):
        s.r = random.Random(seed)

    def p(s, *a):
        return s.r.choice(a[0] if len(a) == 1 and isinstance(a[0], (list, tuple)) else a)

    def ex(s, t, v=None):
        pat_ = re.compile(r"\[([^\[\]]*)\]")
        while True:
            m = pat_.search(t)
            if not m:
                break
            t = t[: m.start()] + s.r.choice(m.group(1).split("|")) + t[m.end() :]
        if v:
            t = re.sub(r"\{(\w+)\}", lambda m: str(v[m.group(1)]), t)
        return t

    def fake(s):
        n = s.r.choice(SYL1) + s.r.choice(["", "", s.r.choice(SYL1)]) + s.r.choice(SYL2)
        return n[0].upper() + n[1:]

    def who(s, kind=None, name=None, taken=(), child_p=0.35):
        """a character: dict with name, kind, pronouns"""
        r = s.r
        fem = r.random() < 0.5
        if kind is None:
            x = r.random()
            if x < child_p:
                kind = "girl" if fem else "boy"
            elif x < 0.85:
                kind = r.choice(list(AN))
            else:
                kind = r.choice(list(MAGIC))
        if kind in ("girl", "princess", "queen", "witch", "mermaid"):
            fem = True
        if kind in ("boy", "prince", "king", "knight", "wizard"):
            fem = False
        for _ in range(50):
            if name:
                n = name
                break
            x = r.random()
            if x < 0.16:
                n = s.fake()
            elif kind in ("girl", "boy", "princess", "prince", "queen", "king"):
                n = r.choice(F_NAMES if fem else M_NAMES)
            elif x < 0.62:
                n = r.choice(PETS)
            else:
                n = r.choice(F_NAMES if fem else M_NAMES)
            if n not in taken:
                break
        d = AN.get(kind) or MAGIC.get(kind) or [r.choice(PLACES), r.choice(FOODS), "bed", "ran"]
        h = ("she", "her", "her") if fem else ("he", "him", "his")
        return dict(
            n=n,
            k=kind,
            he=h[0],
            him=h[1],
            his=h[2],
            He=h[0].capitalize(),
            His=h[2].capitalize(),
            place=d[0],
            food=d[1],
            bed=d[2],
            move=d[3],
            human=kind in ("girl", "boy"),
        )


def fix(t):
    t = re.sub(r"\b([Aa]) (?=[aeiouAEIOU])(?!(?:uni|one|use|Uni|eu))", lambda m: m.group(1) + "n ", t)
    t = re.sub(r"\b([Aa]) (?=honest|hour)", lambda m: m.group(1) + "n ", t)
    t = re.sub(r"(^|[.!?]\s+|\n\n)([a-z])", lambda m: m.group(1) + m.group(2).upper(), t)
    t = re.sub(r" +", " ", t).replace(" .", ".").replace(" ,", ",")
    return t.strip()


# ------------------------------------------------------------------ plots: list of paragraphs, each a list of sentences
OPEN = [
    "[Once upon a time|Once|Long ago|One day|Once upon a time], there was a {size} {k} named {n}.",
    "{n} was a {size} {k} who lived {home}.",
    "[Once upon a time|Long ago|In a quiet place], a {good} {k} named {n} lived {home}.",
    "There was once a {size} {k} called {n}.",
    "{home1} lived a {good} {k} named {n}.",
    "{n} was a {good} {k}.",
    "In a [small|quiet|sunny|faraway|little] [village|valley|town|land], there lived a {size} {k} named {n}.",
]
LIKE = [
    "?{n} was very {good}.",
    "?{n} loved to [play outside|explore|sing|help others|eat {food}|look at the stars|laugh|run in the sun].",
    "?Every [day|morning], {n} [ate {food} for breakfast|said hello to the sun|went for a walk|played {home}].",
    "?{His} favorite [color was {color}|food was {food}|thing was a {obj}].",
    "?{He} had a [big smile|kind heart|warm heart|soft voice|lot of questions].",
]
WEATHER = [
    "?The sun was [shining|bright|warm].",
    "?It was a [sunny|warm|cold|windy|bright|rainy|lovely] [day|morning].",
    "?The sky was [blue|clear|full of soft clouds].",
    "?The [birds were singing|wind was soft|leaves were falling|grass was wet].",
]
END = [
    "?From that day on, {n} [was never alone|always remembered that day|smiled a little more|told this story to everyone].",
    "?And they all lived happily.",
    "?{n} went to sleep with a smile.",
    "?It was the best day [ever|of all].",
    "?{n} could not wait for tomorrow.",
    "?The end.",
]


def moral(key):
    return ["[{n} learned that {m}.|{n} never forgot that {m}.|That day, {n} learned that {m}.|Now {n} knew that {m}.]"]


PLOTS = {}


def plot(key, moral_key, theme):
    def w(f):
        PLOTS[key] = (f, moral_key, theme)
        return f

    return w


@plot("lost_toy", "help", "helping a friend")
def _(g):
    return [
        [
            "{n} had a {obj}.",
            "[It was {his} favorite thing in the world.|{He} took it everywhere.|{n} loved it very much.]",
            "?{His} grandma had given it to {him}.",
            "?{He} played with it every day.",
        ],
        [
            "One day, {n} [looked for the {obj}, but it was gone|woke up and could not find the {obj}|lost the {obj} {pat}].",
            '["Oh no! Where is my {obj}?" {n} cried.|{n} felt very sad.|{n} began to cry.]',
            "?{He} looked under the bed, but it was not there.",
            "?{He} looked behind the door, but it was not there.",
            "?{He} looked [in the garden|in the kitchen|under the table], but it was not there.",
        ],
        [
            "Then {n} met {f}, a {fk}.",
            '"Why are you sad?" asked {f}.',
            '"I lost my {obj}," said {n}.',
            '"[Do not worry|Do not cry|It is all right]," said {f}. "[I will help you look|We can look together|Let us find it]."',
        ],
        [
            "[They looked high and low.|They looked everywhere.|The two friends searched {pat}.]",
            "?They asked [an old owl|a busy bee|a passing cat], but [he had|it had] not seen it.",
            "At last, {f} [saw something {color} under a bush|heard a soft sound behind a tree|found it near the water|looked inside an old box].",
            "It was the {obj}!",
        ],
        [
            '{n} [jumped with joy|gave {f} a big hug|laughed and clapped]. "Thank you, {f}!" {he} said. "[You are a good friend|You are the best|I am so happy]."',
            "?Then they played with the {obj} together until the sun went down.",
            *moral(0),
        ],
    ]


@plot("share", "share", "sharing")
def _(g):
    return [
        [
            "One day, {n} and {his} friend {f} were playing {pat}.",
            "?{f} was a {fk}.",
            "They found a {obj}.",
            '["It is mine!" said {n}.|"I saw it first!" said {n}.] ["No, it is mine!" said {f}.|"No, I saw it first!" said {f}.]',
        ],
        [
            "They [pulled and pulled|argued for a long time|shouted at each other].",
            "?Both of them were very angry.",
            "?The {obj} almost broke.",
            "[{n} sat down and began to cry.|{f} turned away and would not speak.|Soon they were both sad and nobody was playing.]",
        ],
        [
            "[An old turtle|{n}'s mother|A wise owl|{f}'s grandpa] saw them and [came over|smiled].",
            '"[Why are you fighting|What is wrong]?" [asked the voice|came the question].',
            '"We both want the {obj}," said {n}.',
            '"[You can take turns|Why not share it|If you play together, you can both have fun]."',
        ],
        [
            '{n} thought about it. "[You can have it first|Let us take turns|I am sorry, {f}]," {he} said.',
            '{f} smiled. "[Thank you|I am sorry too|That is a good idea]," said {f}. "[Let us play together|Then it will be your turn|We can share]."',
            "They played with the {obj} all afternoon.",
            "?It was much more fun with two.",
            *moral(0),
        ],
    ]


@plot("brave", "brave", "being brave")
def _(g):
    return [
        [
            "But {n} was afraid of {fear}.",
            "?{n} did not want anyone to know.",
            "[When {he} thought of {fear}, {his} legs shook.|Every time, {n} wanted to hide.|{He} always ran away.]",
        ],
        [
            "One day, {n} had to [face {fearplace}|go near {fearplace}].",
            '["I cannot do it," said {n}.|"I am too scared," {he} said.|{n} closed {his} eyes.]',
            "?{His} heart went thump, thump, thump.",
        ],
        [
            "{f}, a {fk}, came and sat beside {him}.",
            '"[I was scared once too|Everyone is scared sometimes|It is all right to be afraid]," said {f}. "[Hold my hand and take one small step|Take a deep breath and count to three|We will go together]."',
        ],
        [
            "{n} took a deep breath. [One, two, three!|One step. Two steps. Three steps.]",
            "[It was not so bad.|Nothing bad happened.|{n} opened {his} eyes and looked around.]",
            '?"Look at me! I am doing it!" {n} shouted.',
            '{f} [cheered|clapped|smiled]. "[I knew you could do it|You are very brave|I am proud of you]!"',
            *moral(0),
        ],
    ]


@plot("help_stuck", "help", "kindness")
def _(g):
    return [
        [
            "One [day|morning|afternoon], {n} was walking {pat}.",
            'Suddenly, {he} heard a small voice. "Help! Help!"',
            "It was {f}, a {fk}.",
            "{f} was [stuck in a hole|caught in a net|stuck in the mud|trapped under a branch|stuck between two rocks].",
        ],
        [
            '"[Do not be afraid|Stay still]," said {n}. "I will help you."',
            "{n} [pulled and pulled|dug and dug|pushed with all {his} strength|found a long stick].",
            "?It was hard work, but {n} did not give up.",
            "At last, {f} was free!",
        ],
        ['"Thank you!" said {f}. "[One day I will help you too|You saved me|I will never forget this]."', "?{n} smiled and went home."],
        [
            "A few days later, {n} was in trouble. [{He} was lost {pat2}.|{He} had hurt {his} foot {pat2}.|A big storm came, and {n} had no place to hide.]",
            "[Then {he} saw a friendly face.|Just then, somebody came.] It was {f}!",
            '"Now it is my turn to help," said {f}.',
            "{f} [showed {n} the way home|took {n} to a safe, dry place|carried {n} all the way home].",
            *moral(0),
        ],
    ]


@plot("lost_way", "lost", "getting lost")
def _(g):
    return [
        [
            "One day, {n} went for a walk {pat} with {his} [mother|father|family|big sister].",
            "{n} saw a [pretty butterfly|shiny stone|{color} bird|funny bug] and followed it.",
            "?It went left. It went right. {n} went after it.",
        ],
        [
            "When {n} stopped, {he} could not see {his} family.",
            '"Where am I?" said {n}. [The trees were tall.|Everything looked different.|It was getting dark.]',
            "?{n} called and called, but nobody answered.",
            "{n} felt [very small|scared|like crying].",
        ],
        [
            "A {fk} named {f} saw {him}.",
            '"Are you lost?" asked {f}.',
            '"Yes," said {n}. "I want to go home."',
            '"[Let us follow the river|Let us look for your footprints|Climb up here and look around]," said {f}.',
        ],
        [
            "Together they [followed the path|walked over the hill|walked and walked].",
            'Soon {n} heard a voice. "{n}! {n}!"',
            "It was {his} family! They hugged {him} tight.",
            '"Thank you, {f}," said {n}.',
            '?"Next time, stay close to us," said {his} mother.',
            *moral(0),
        ],
    ]


@plot("learn", "learn", "not giving up")
def _(g):
    return [
        ["{n} wanted to learn to {skill}.", "?All {his} friends could do it.", "?{He} dreamed about it at night."],
        [
            "The first time, {n} {skfail}.",
            '["This is too hard!" {he} said.|{n} wanted to give up.|{n} felt very sad.]',
            "?The second time was not much better.",
            "?Some of the others laughed.",
        ],
        [
            "But {f}, a {fgood} {fk}, did not laugh.",
            '"[I fell many times when I was learning|Try again, a little every day|Nobody can do it the first time]," said {f}.',
            "So {n} [practiced every day|tried again and again|practiced in the morning and in the evening].",
            "?Day by day, it got a little easier.",
        ],
        [
            "Then, one [sunny|fine|special] day, {n} {skok}!",
            '[Everyone cheered.|{f} clapped and cheered.|"I did it! I did it!" shouted {n}.]',
            "{n} was so [proud|happy].",
            *moral(0),
        ],
    ]


@plot("honest", "honest", "telling the truth")
def _(g):
    return [
        [
            "One day, {n} was playing inside with a {obj}.",
            '{His} mother said, "[Please be careful|Do not run in the house]."',
            "But {n} [ran too fast|jumped too high|forgot].",
            "Crash! {n} broke [a blue vase|the big lamp|a plate|the window|Grandma's cup].",
        ],
        [
            "{n} was scared. [{He} hid the pieces under the rug.|{He} hid behind the chair.|{He} wanted to say that the wind did it.]",
            "?{His} tummy felt funny.",
            "?{He} could not eat {his} dinner.",
        ],
        [
            '{f}, {his} friend, said, "[You should tell the truth|It is better to tell her|Your mother will understand]."',
            '{n} walked slowly to {his} mother. "I am sorry," {he} said. "I broke it."',
        ],
        [
            "{His} mother [was quiet for a moment|looked at {him}]. Then she gave {him} a hug.",
            '"[Thank you for telling me the truth|I am glad you told me]," she said. "[We can fix it together|Things can be fixed, but the truth is more important]."',
            "{n} felt [light and happy again|much better].",
            *moral(0),
        ],
    ]


@plot("seed", "patient", "patience")
def _(g):
    return [
        [
            "One day, {f} gave {n} a tiny seed.",
            "?{f} was a {fk} who knew all about plants.",
            '"Plant it and wait," said {f}.',
            "{n} dug a small hole and put the seed in the ground.",
            "{He} gave it some water.",
        ],
        [
            "The next day, {n} looked. Nothing!",
            "?The day after that, {n} looked again. Still nothing!",
            '"[Grow, seed, grow!|Why is it so slow?]" said {n}.',
            '["Be patient," said {f}. "Seeds need sun, water, and time."|"Good things take time," said {f}.]',
        ],
        [
            "So {n} waited. [The sun shone.|The rain fell.] [Days went by.|Weeks went by.]",
            "?Every morning, {n} gave the seed a little water and sang a song.",
            "Then one morning there was a small green leaf!",
        ],
        [
            "The plant grew and grew. At last it became a [tall sunflower|tree full of apples|bush of sweet berries|big orange pumpkin|beautiful {color} flower].",
            "{n} was so happy. {He} [shared it with {f}|showed it to everyone|danced around it].",
            *moral(0),
        ],
    ]


@plot("greedy", "greedy", "being greedy")
def _(g):
    return [
        [
            "{n} loved {food2} more than anything.",
            "One day, {n} found a big [basket|table|bowl] full of {food2} {pat}.",
            '"All for me!" said {n}.',
        ],
        [
            '{f}, a hungry {fk}, came by. "May I have a little?" asked {f}.',
            '"No!" said {n}. "It is all mine."',
            "{n} ate and ate and ate.",
            "?{He} ate until there was nothing left.",
            'Soon {his} tummy hurt very much. "Oh, oh," {he} said.',
        ],
        [
            "{f} heard {n} and came back.",
            "{f} did not laugh. {f} brought {n} [a cup of warm tea|some water|a soft blanket] and sat beside {him}.",
            '"I am sorry I did not share," said {n}.',
        ],
        [
            "The next day, {n} made [more {food2}|a new bowl of {food2}] and gave half of it to {f}.",
            "[It tasted even better together.|They ate and laughed together.]",
            *moral(0),
        ],
    ]


@plot("new_friend", "friend", "making a friend")
def _(g):
    return [
        [
            "{n} had just moved to a new home {pat}.",
            "{He} did not know anyone there.",
            "?{n} sat by the window and watched the others play.",
            '"I wish I had a friend," {he} said.',
        ],
        [
            "One day, {n} took {his} {obj} and went outside.",
            "A {fk} sat alone under a tree.",
            '{n} was shy, but {he} said, "Hello. My name is {n}. What is your name?"',
            '"I am {f}," said the {fk}. "[I like your {obj}|Do you want to play|Nobody ever asks me to play]."',
        ],
        [
            "They [played with the {obj}|played hide and seek|ran and jumped and laughed] all day.",
            "?They shared some {food2}.",
            "?{f} told funny stories, and {n} laughed until {his} tummy hurt.",
            'When the sun went down, {f} said, "Will you come back tomorrow?"',
            '"Yes!" said {n}. "[I will come every day|We are friends now]."',
            *moral(0),
        ],
    ]


@plot("birthday", "friend", "a birthday surprise")
def _(g):
    return [
        [
            "Today was {n}'s birthday.",
            "But nobody said happy birthday.",
            '{n} went to see {f}. "[Do you know what day it is|Is today special]?" {he} asked.',
            '"It is [Monday|Friday|a normal day]," said {f}. "I am very busy."',
        ],
        [
            "{n} walked {pat}. {He} felt sad.",
            '"They all forgot," {he} said.',
            "?A tear ran down {his} face.",
            "?Even the sun went behind a cloud.",
        ],
        [
            "When {n} came home, it was dark inside.",
            '{He} opened the door. "Surprise!" shouted all {his} friends.',
            "There was a big cake, {food2}, and [{color} balloons|music|a box with a ribbon].",
            '{f} gave {n} a {obj}. "We did not forget," {f} said. "We wanted to surprise you!"',
        ],
        [
            "{n} laughed and hugged everyone.",
            "They sang and danced and ate cake.",
            '"This is the best birthday ever," said {n}.',
            *moral(0),
        ],
    ]


@plot("storm", "team", "working together")
def _(g):
    return [
        [
            "One day, dark clouds came over the {homeplace}.",
            "The wind blew and the rain fell. [Boom! went the thunder.|The water rose higher and higher.]",
            "{n} saw that {f}'s [home|nest|little house] was falling down.",
            "?{f} was a {fk} and lived close by.",
        ],
        [
            '"[We must help|Come quickly]," said {n}.',
            "{n} called all the neighbors.",
            "One brought sticks. One brought leaves. One brought rope.",
            '?"Pull!" they shouted. "Push!" they shouted.',
            "They worked [all night|for hours|side by side].",
        ],
        [
            "When the storm was over, the sun came out. [There was a rainbow in the sky.|Everything was bright and clean.]",
            "{f} had a new home, and it was stronger than before.",
            '"Thank you, all of you," said {f}. "I could not do it alone."',
            "?They ate {food2} together and rested in the sun.",
            *moral(0),
        ],
    ]


@plot("treasure", "friend", "a treasure hunt")
def _(g):
    return [
        [
            "One day, {n} found an old map {pat}.",
            "There was a big {color} X on it.",
            '"A treasure!" said {n}. {He} ran to {f}, {his} friend. "Let us find it!"',
            "?{f} was a {fk} who loved adventures.",
        ],
        [
            "They [crossed a river|climbed a hill|walked through tall grass]. They [went past a big rock|went through a dark cave|counted ten steps to the left].",
            "?On the way they got tired and sat under a tree.",
            "?They shared {food2} and a bottle of water.",
            "At last they found the place. They dug and dug.",
        ],
        [
            "There was a small box. Inside was [a {obj}|an old letter|a picture of two friends].",
            '[The letter said, "The best treasure is the friend who walks with you."|"It is not gold," said {f}, "but it is pretty."|"Is that all?" said {n}. Then they both laughed.]',
            '{n} looked at {f} and smiled. "[I had so much fun with you today|I already have a treasure|Finding it together was the best part]," {he} said.',
            *moral(0),
        ],
    ]


@plot("wish", "gift", "a magic wish")
def _(g):
    return [
        [
            "One night, {n} found a {obj} that [glowed in the dark|shone like a star|hummed a soft song].",
            '"I can give you one wish," said the {obj}.',
            '{n} was very surprised. "A wish? For me?"',
        ],
        [
            '{n} thought and thought. ["I could wish for a hundred cakes," {he} said.|"I could wish for a castle," {he} said.|"I could wish to fly," {he} said.]',
            "Then {n} saw {f}, a {fk} who was [sick in bed|sad and alone|cold and hungry].",
            '{n} knew what to do. "I wish for {f} to be well and happy," {he} said.',
        ],
        [
            "The {obj} [shone|sparkled] once more, and then the light went out.",
            "{f} [jumped up and laughed|smiled for the first time in days|felt warm and strong].",
            '"You gave your wish to me?" said {f}. "Thank you!"',
            "{n} had no more wishes, but {he} had a [happy heart|new friend].",
            *moral(0),
        ],
    ]


@plot("bedtime", "sleep", "bedtime")
def _(g):
    return [
        [
            "It was time for bed, but {n} was not sleepy.",
            "[{He} turned left. {He} turned right.|{He} looked at the moon.|{He} listened to the clock. Tick, tock.]",
            '"I cannot sleep," said {n}.',
        ],
        [
            '{His} mother came in. "[Shall we count the stars|Close your eyes and think of something nice|I will sing you a song]," she said.',
            '["One star, two stars, three stars," said {n}.|{n} thought of {food2} and a {obj}.|She sang a soft song about the sea.]',
            "?Outside, {f} the {fk} was going to sleep too.",
            "?The wind was quiet. The moon was round and bright.",
        ],
        [
            "{n} felt warm. {His} eyes became heavy.",
            '"Good night, {n}," {his} mother said.',
            '"Good night," said {n}, and soon {he} was fast asleep in {his} {bed}.',
            "?{He} dreamed of {dreams}.",
        ],
    ]


@plot("cook", "try", "cooking together")
def _(g):
    return [
        [
            "{n} wanted to make {food2} for {f}.",
            '{His} [grandma|grandpa|mother|father] said, "I will help you."',
            "They put on [aprons|tall white hats] and washed their hands.",
        ],
        [
            "First they mixed [flour and milk|sugar and butter|everything in a big bowl]. Then {n} [dropped an egg on the floor|used salt and not sugar|spilled the milk].",
            '"Oh no!" said {n}. "I made a mess."',
            '"[Everyone makes mistakes in the kitchen|That is all right. We can try again|We will clean it up together]."',
        ],
        [
            "They tried again. This time, it smelled wonderful.",
            "?The whole house smelled sweet.",
            "{n} took it to {f}. {f} was a {fk} and was very hungry.",
            '"Mmm! This is the best I ever had," said {f}.',
            "{n} smiled from ear to ear.",
            *moral(0),
        ],
    ]


@plot("clever", "clever", "being clever")
def _(g):
    return [
        [
            'One day, a big [bear|wolf|tiger|lion|crocodile] stood in the way. "[I am going to eat you up|This path is mine|Give me all your food]," it [roared|growled].',
            "{n} was small, but {he} was clever.",
            "?{He} did not run away.",
        ],
        [
            '"[Please wait|Of course]!" said {n}. "But first, [look in this well. There is someone bigger than you|can you make yourself as small as a mouse|can you catch your own tail|close your eyes and count to one hundred]."',
            "The big beast was proud and wanted to show off.",
            '[It looked and looked.|It turned around and around.|"That is easy!" it said.]',
        ],
        [
            "While it was busy, {n} [ran away|slipped past|climbed up a tree] and called {f}.",
            "{f}, a {fk}, [laughed|opened the door] and hid {him} in a safe place.",
            "The big beast was [dizzy|tired|wet] and went home with nothing.",
            *moral(0),
        ],
    ]


@plot("clean", "nature", "taking care of nature")
def _(g):
    return [
        [
            "One day, {n} went to play {pat}.",
            "But there was trash everywhere! There were [bottles|bags|cans|papers] on the ground.",
            '{f}, a {fk}, was sad. "[I cannot find my food|I cut my foot|My home is dirty]," said {f}.',
        ],
        [
            '"We have to clean this up," said {n}.',
            "{He} got a big bag and began to pick things up.",
            "?At first {n} was alone. Then one friend came. Then two. Then ten.",
            "They all worked together [until the place was clean|all afternoon].",
        ],
        [
            "At the end of the day, it looked beautiful again.",
            '{f} [danced for joy|smiled]. "Thank you! Now we can all play here," said {f}.',
            'They put up a sign. It said, "Please keep this place clean."',
            *moral(0),
        ],
    ]


@plot("snow", "friend", "a snowy day")
def _(g):
    return [
        [
            "One morning, {n} looked outside. Everything was white!",
            '"Snow!" {he} shouted.',
            "{He} put on {his} [boots|hat|scarf] and went out to find {f}.",
            "?{f} was a {fk} who had never seen snow before.",
        ],
        [
            "They [made a big snowman|threw snowballs|went down the hill on a sled].",
            "They gave the snowman [a carrot nose|two button eyes|a {color} scarf].",
            '?"He looks cold," said {f}, and they laughed.',
            "Then {n}'s hands got very cold.",
        ],
        [
            "They went inside and [drank hot cocoa|sat by the fire|ate warm soup].",
            '{f} said, "[This was a perfect day|I love snow|Can we do it again tomorrow]?"',
            "{n} looked out the window. The snowman [seemed to smile|stood in the moonlight].",
            *moral(0),
        ],
    ]


@plot("baby", "help", "finding the way home")
def _(g):
    return [
        [
            "One day, {n} found a baby {fk} {pat}.",
            'It was all alone. "I want my mother," it cried.',
            '"What is your name?" asked {n}.',
            '"{f}," said the baby {fk}.',
        ],
        [
            "{n} gave {f} some {ffood} and a soft place to rest.",
            "Then they went to look for {f}'s mother.",
            'They asked a [cow|duck|farmer|crow]. "No, I have not seen her."',
            '?They asked a [frog|goat|mailman|sheep]. "Try {pat2}," came the answer.',
        ],
        [
            "They went {pat2b}. There was a big {fk} looking all around.",
            '"Mother!" cried {f}. "My baby!" said the mother.',
            "She thanked {n} again and again.",
            "?{n} waved goodbye. {He} was a little sad, but also very happy.",
            *moral(0),
        ],
    ]


@plot("show", "self", "a big show")
def _(g):
    return [
        [
            "There was going to be a big show {pat}.",
            "Everyone could do something special. One could sing. One could dance. One could do tricks.",
            '"What can I do?" said {n}. "I am not good at anything."',
        ],
        [
            '{f}, a {fk}, said, "[You tell the best stories|You make everyone laugh|You are good at {good2} things|You can {skill}]."',
            "?{n} did not believe it at first.",
            "But {he} tried. {He} practiced all week.",
        ],
        [
            "On the day of the show, {n} stood on the stage. {His} knees were shaking.",
            "{He} took a deep breath and began.",
            "[Everyone laughed and clapped.|The crowd was very quiet, and then they cheered.|People stood up and cheered.]",
            '"[That was wonderful|I knew it]!" said {f}.',
            *moral(0),
        ],
    ]


@plot("build", "team", "building something")
def _(g):
    return [
        [
            "{n} and {f} wanted to build a [tree house|sand castle|raft|bridge|little house|bird house].",
            "?{f} was a {fk}.",
            '{n} said, "[I will do it my way|I know how to do it]." {f} said, "No, [my way is better|let me do it]."',
            "They did not work together, and it fell down. Crash!",
        ],
        [
            "They looked at the mess. [Then they began to laugh.|Both of them were sad.]",
            '"Maybe we should listen to each other," said {n}.',
            '"You are right," said {f}. "You are good at [planning|finding wood], and I am good at [tying knots|lifting heavy things]."',
        ],
        [
            "This time they worked together. [One held, and one tied.|{n} held the wood, and {f} tied the rope.]",
            "?They stopped to eat {food2}.",
            "When they were done, it was [strong and beautiful|the best one {homeat}].",
            "They put a {color} flag on top and sat down with a smile.",
            *moral(0),
        ],
    ]


@plot("picky", "try", "trying new food")
def _(g):
    return [
        [
            "{n} only liked to eat {food}.",
            "{He} ate {food} for breakfast, lunch, and dinner.",
            "One day there was no {food} left. All they had was {food2}.",
            '"Yuck!" said {n}. "I do not like {food2}."',
        ],
        [
            '"Have you ever tried it?" asked {f}, a {fk}.',
            '"No," said {n}.',
            '"[Just take one small bite|Try it with your eyes closed|I will eat some too]."',
            "?{n} looked at it. {n} smelled it.",
        ],
        [
            '{n} took a tiny bite. Then a bigger bite. ["Oh!" {he} said. "This is good!"|"Yum!" {he} said.]',
            "Soon the plate was empty.",
            '"What else can I try?" asked {n}, and {f} laughed.',
            *moral(0),
        ],
    ]


@plot("lie", "lie", "telling lies")
def _(g):
    return [
        [
            '{n} liked to play tricks. "Help! Help! [A wolf|A fire|A monster]!" {he} shouted one day.',
            "Everyone came running. But there was nothing there.",
            '{n} laughed and laughed. "I tricked you!"',
        ],
        [
            "The next day, {n} did it again. Everyone came running, and again there was nothing.",
            '?{f}, a {fk}, was not happy. "That is not funny," said {f}.',
            'Then one day {n} really [fell into a hole|needed help|got stuck in the mud]. "Help! Help!" {he} cried.',
            'But nobody came. "It is only a trick," they said.',
        ],
        [
            "At last {f} heard {him} crying and came to look. {f} pulled {him} out.",
            '"I am sorry," said {n}. "I will not lie again."',
            "{n} said sorry to everyone, and [they forgave {him}|after some time they trusted {him} again].",
            *moral(0),
        ],
    ]


@plot("gift", "gift", "a handmade gift")
def _(g):
    return [
        [
            "It was almost {f}'s birthday. {n} wanted to buy {him2} a {obj}.",
            "But {n} had no money. {He} looked in {his} pockets. They were empty.",
            '?{n} felt sad. "What can I give?" {he} said.',
        ],
        [
            "Then {n} had an idea. {He} found [some paper and crayons|some flowers and a string|a piece of wood|old buttons and cloth].",
            "{He} worked all day. {He} made [a card with a picture of two friends|a crown of flowers|a little wooden {fk}|a soft pillow].",
            "?It was not perfect, but it was made with love.",
        ],
        [
            "At the party, others brought big boxes. {n}'s gift was very small.",
            '{f} opened it and {his2} eyes grew wide. "You made this for me?" {f} asked.',
            '"Yes," said {n} in a quiet voice.',
            '"It is the best gift of all!" said {f} and gave {n} a big hug.',
            *moral(0),
        ],
    ]


@plot("noise", "brave", "a strange noise")
def _(g):
    return [
        [
            "One night, {n} heard a strange noise. [Scratch, scratch.|Tap, tap, tap.|Woooo.]",
            '"What is that?" {n} whispered.',
            "?{He} pulled the blanket over {his} head.",
            "The noise came again.",
        ],
        [
            "{n} took a [lamp|light] and went to look. {He} opened the door very slowly. Creak!",
            "?The hall was dark and long.",
            "There, in the corner, was [a little {fk}|a wet {fk}|a very small {fk}]!",
            '"I am cold," said the {fk}. "My name is {f}. I only wanted to come in."',
        ],
        [
            '{n} laughed. "I thought you were a monster!"',
            "{He} gave {f} [a warm blanket|some {ffood}|a towel and a cup of milk].",
            "That night, they both slept well. [The house was quiet.|There were no more strange noises.]",
            *moral(0),
        ],
    ]


@plot("moon", "friend", "a trip to the moon")
def _(g):
    return [
        [
            '{n} looked at the moon every night. "I want to go there," {he} said.',
            "So {n} and {f} built a rocket out of [an old box|wood and paint|a big tin can].",
            "?{f} was a {fk} who knew how to fix things.",
            '"Three, two, one, go!" they shouted.',
        ],
        [
            "Whoosh! They flew past the clouds and past the stars.",
            "On the moon, everything was [quiet|gray and soft|round and bright]. They could jump very high.",
            'They met [a small green alien|a moon mouse|a sleepy star] who said, "Hello! [I never have visitors|Do you like cheese|Welcome to the moon]."',
            "They shared {food2} and played games.",
        ],
        [
            'Then {n} saw the Earth. It was blue and small. "I miss home," {he} said.',
            "They waved goodbye and flew back.",
            "In {his} pocket, {n} found a tiny piece of [moon rock|stardust].",
            "Every night after that, {n} waved at the moon, and [it seemed to wave back|something small waved back].",
            *moral(0),
        ],
    ]


@plot("jealous", "sorry", "saying sorry")
def _(g):
    return [
        [
            "{f}, a {fk}, got a new {obj}. Everyone said it was [beautiful|wonderful].",
            '{n} felt jealous. "Why do I not have one?" {he} thought.',
            "When nobody was looking, {n} hid the {obj}.",
        ],
        [
            "{f} looked everywhere and began to cry.",
            "{n} felt bad. {His} heart was heavy.",
            "?{He} could not play. {He} could not sleep.",
            'At last {n} went to {f}. "I took it," {he} said. "I am very sorry."',
        ],
        [
            '{f} was [angry at first|quiet for a while]. Then {f} said, "[Thank you for saying sorry|I forgive you|You could just ask me]."',
            '"Do you want to play with it together?" asked {f}.',
            "{n} was so happy. The two of them played until evening.",
            *moral(0),
        ],
    ]


@plot("race", "self", "a race")
def _(g):
    return [
        [
            'There was a big race {pat}. {f}, a fast {fk}, said, "I will win. I always win."',
            "{n} was slow, but {he} wanted to try.",
            '?"You?" laughed {f}. "You cannot win."',
        ],
        [
            '"Ready, set, go!" {f} ran far ahead. {n} went step by step.',
            "In the middle of the race, {f} [stopped to take a nap|stopped to eat {food2}|fell into a ditch].",
            "[{n} kept going.|{n} did not stop.|{n} saw {f} and stopped to help.]",
        ],
        [
            "The crowd cheered. [{n} came in first!|{n} and {f} crossed the line together!]",
            '"[You were slow, but you did not stop|You are a true winner|I was wrong about you]," said {f}.',
            '{n} smiled. "[It was fun to try|We can run together next time]," {he} said.',
            *moral(0),
        ],
    ]


@plot("purpose", "self", "finding your own gift")
def _(g):
    return [
        [
            '{n} felt useless. "[Everyone can do something special|Others are big and strong], but I cannot," {he} said.',
            "?{He} tried to [sing like a bird|run like a horse|jump like a frog], but it did not work.",
        ],
        [
            "One day, {f}, a {fk}, [lost the way in the fog|was afraid of the night|could not reach a small hole].",
            'Nobody could help. Then {n} said, "Maybe I can try."',
            "{n} [called out in a clear voice|stayed close and told a story|used {his} own special way], and soon [everything was all right|{f} was safe].",
        ],
        ['"You are special just as you are," said {f}.', "{n} stood tall and smiled. {He} did not want to be anyone else.", *moral(0)],
    ]


@plot("trip", "try", "a day trip")
def _(g):
    return [
        [
            "{n} and {his} family went on a trip. They went {topat}.",
            "{n} took {his} {obj} and a bag of {food2}.",
            '"Are we there yet?" {he} asked. "Almost," said {his} father.',
        ],
        [
            "When they got there, {n} saw [a tall tower|a big fountain|boats on the water|a man with balloons|a band with drums]. {He} also saw a {fk}!",
            'The {fk} came close. "It likes you," said {his} mother. "Let us call it {f}."',
            "{n} gave {f} a little {ffood}. {f} was gentle.",
            "?They took a picture together.",
            "?Then it began to rain, and they all ran under a tree and laughed.",
        ],
        [
            "In the evening, everyone was tired.",
            '"What did you like best?" asked {his} father.',
            '"I liked {f} best," said {n}. "Can we come again?"',
            '"Of course," they said. {n} fell asleep on the way home.',
        ],
    ]


DREAMS = [
    "flying over the sea",
    "a garden full of flowers",
    "a mountain of cake",
    "dancing with the stars",
    "a kind whale",
    "riding on a cloud",
    "tomorrow",
]


def story(g, kind=None, name=None, fkind=None, obj=None, place=None, length=None, plotkey=None, food=None):
    r = g.r
    key = plotkey or r.choice(list(PLOTS))
    f, mk, theme = PLOTS[key]
    h = g.who(kind, name)
    fr = g.who(fkind, taken=(h["n"],), child_p=0.15)
    if key in ("noise", "baby", "trip"):
        while fr["k"] in MAGIC or fr["human"]:
            fr = g.who(fkind if fkind in AN else None, taken=(h["n"],), child_p=0)
    length = length or r.choice(["short", "medium", "medium", "long"])
    place = place or (r.choice(PLACES) if h["human"] or r.random() < 0.45 else h["place"])
    home = (
        pat(place)
        if r.random() < 0.4
        else (
            at(h["place"])
            if not h["human"]
            else r.choice(
                [
                    "in a little house",
                    "in a small town",
                    "by the sea",
                    "near the forest",
                    "on a farm",
                    "in the city",
                    "in a village",
                    "on a quiet street",
                ]
            )
        )
    )
    p2 = r.choice(PLACES)
    sk = r.choice(SKILL)
    fe = r.choice(FEAR)
    food2 = food or r.choice(FOODS)
    v = dict(
        n=h["n"],
        k=h["k"],
        he=h["he"],
        him=h["him"],
        his=h["his"],
        He=h["He"],
        His=h["His"],
        food=h["food"],
        bed=h["bed"] if not h["human"] else "bed",
        size=r.choice(SIZE),
        good=r.choice(GOOD),
        good2=r.choice(GOOD),
        fgood=r.choice(GOOD),
        home=home,
        home1=home[0].upper() + home[1:],
        homeplace=h["place"],
        homeat=at(h["place"]),
        color=r.choice(COLOR),
        obj=obj or r.choice(OBJ),
        f=fr["n"],
        fk=fr["k"],
        ffood=fr["food"],
        him2=fr["him"],
        his2=fr["his"],
        pat=pat(place),
        pat2=pat(p2),
        pat2b=("to " + pat(p2).split(" ", 1)[1]) if p2 != "school" else "to school",
        topat=("to " + pat(place).split(" ", 1)[1]) if place != "school" else "to school",
        skill=sk[0],
        skok=sk[1],
        skfail=sk[2],
        fear=fe[0],
        fearplace=fe[1],
        food2=food2,
        m=MORAL[mk],
        dreams=r.choice(DREAMS),
    )
    keep = {"short": 0.08, "medium": 0.5, "long": 0.92}[length]
    paras = f(g)
    intro = [r.choice(OPEN)] + r.sample(LIKE, 3 if length == "long" else 2) + ([r.choice(WEATHER)] if r.random() < 0.4 else [])
    body = [intro] + [list(p) for p in paras]
    body[-1] += [r.choice(END)]
    out = []
    for p in body:
        s = []
        for x in p:
            if x.startswith("?"):
                if r.random() > keep:
                    continue
                x = x[1:]
            s.append(g.ex(x, v))
        if s:
            out.append(" ".join(s))
    if length == "short" and r.random() < 0.6:
        txt = " ".join(out)
    elif r.random() < 0.25:
        txt = "\n".join(out)
    else:
        o = []
        i = 0
        while i < len(out):  # sometimes merge neighbouring paragraphs
            if i + 1 < len(out) and r.random() < 0.3:
                o.append(out[i] + " " + out[i + 1])
                i += 2
            else:
                o.append(out[i])
                i += 1
        txt = "\n\n".join(o)
    return fix(txt), dict(h=h, f=fr, v=v, key=key, theme=theme, place=place, length=length, moral=MORAL[mk])


TINY = [
    "{n} was a {size} {k}. {He} loved {food2}. One day {he} shared {his} {food2} with {f} the {fk}, and they became friends.",
    "A {k} named {n} found a {obj} {pat}. {He} gave it back to {f}, who had lost it. Everyone was happy.",
    "Once there was a {k} who could not sleep. {f} the {fk} sang a song. Soon {n} the {k} was fast asleep.",
    '{n} the {k} was afraid of {fear}. {f} held {his} hand. "See? It is all right," said {f}, and {n} smiled.',
    "It was a {color} morning. {n} the {k} and {f} the {fk} {went} to the {place}. They played all day and went home tired and happy.",
    "{n} the {k} planted a seed. {He} waited and waited. At last, a {color} flower opened, and {n} danced for joy.",
]


def tiny(g, kind=None, name=None):
    h = g.who(kind, name)
    f = g.who(None, taken=(h["n"],), child_p=0)
    place = g.p(PLACES)
    v = dict(
        n=h["n"],
        k=h["k"],
        he=h["he"],
        him=h["him"],
        his=h["his"],
        He=h["He"],
        His=h["His"],
        size=g.p(SIZE),
        food2=g.p(FOODS),
        f=f["n"],
        fk=f["k"],
        obj=g.p(OBJ),
        pat=pat(place),
        place=place,
        fear=g.p(FEAR)[0],
        color=g.p("quiet", "sunny", "cold", "bright"),
        went=g.p("walked", "ran", "went"),
    )
    return fix(g.ex(g.p(TINY), v)), dict(h=h, f=f, v=v, place=place)
