"""Procedural chat turns: story requests, follow-ups, small talk, easy facts, copying, polite refusals."""

import random, re
from storygen import *

MODEL = "OpenELM Demo"
SYS = [
    "You are a helpful assistant.",
    "You are a helpful assistant.",
    "You are a friendly storyteller.",
    "You are a kind assistant. Use simple words.",
    "Answer in simple English.",
    "You are a helpful, honest assistant.",
    "You tell short stories for children.",
    "Be brief.",
    "You are a chatbot.",
]
SREQ = [
    "Tell me a story.",
    "Tell me a story about {w}.",
    "Write a story about {w}.",
    "Write a short story about {w}.",
    "Can you tell me a story about {w}?",
    "Please tell me a story about {w}.",
    "I want a story about {w}.",
    "story about {w}",
    "Tell me a short story about {w}.",
    "Could you write a story about {w}, please?",
    "Make up a story about {w}.",
    "I would like to hear a story about {w}.",
    "Tell a story with {w}.",
    "Give me a story about {w}.",
    "Write me a story about {w}",
    "tell me a story about {w}",
    "a story about {w} please",
    "Do you know a story about {w}?",
    "Write a little story about {w}.",
    "Let's hear a story about {w}.",
    "Tell my child a story about {w}.",
    "Write a bedtime story about {w}.",
]
PRE = [
    "",
    "",
    "",
    "",
    "",
    "Sure! ",
    "Of course! ",
    "Here is a story. ",
    "Here is a story for you.\n\n",
    "Okay! Here is one.\n\n",
    "Sure! Here is a story.\n\n",
]
AGAIN = [
    "Another one please.",
    "Tell me another story.",
    "One more!",
    "Another story, please.",
    "Tell me a different one.",
    "Can I have one more story?",
    "again",
    "more",
    "Now another one.",
]

ANSWERS = {}


def qa(qs, ans):
    for q in qs.split("|"):
        ANSWERS[q] = ans


def smalltalk(g):
    r = g.r
    n = r.choice(F_NAMES + M_NAMES + [g.fake()])
    L = [
        (
            [
                "Hello",
                "Hello!",
                "Hi",
                "Hi!",
                "Hey",
                "hello",
                "hi",
                "hi there",
                "Hello there!",
                "Good morning!",
                "Good evening.",
                "Hey there",
            ],
            [
                "Hello! How can I help you today?",
                "Hi! Would you like to hear a story?",
                "Hello! I am a small story model. What would you like a story about?",
                "Hello there! It is nice to meet you.",
                "Hi there! What should we talk about?",
            ],
        ),
        (
            ["How are you?", "How are you today?", "how are you doing?", "Are you well?", "How do you feel?", "hi, how are you?"],
            [
                "I am doing well, thank you! How are you?",
                "I am fine, thank you. I am ready to tell a story.",
                "I am just a small program, but I am happy to chat with you.",
                "Very well, thank you! What would you like to talk about?",
            ],
        ),
        (
            [
                "Who are you?",
                "What are you?",
                "What is your name?",
                "what's your name",
                "Are you a robot?",
                "Are you a person?",
                "Are you human?",
                "Tell me about yourself.",
                "What model are you?",
                "Who am I talking to?",
                "Which model is this?",
                "are you an AI?",
            ],
            [
                f"I am {MODEL}, a very small language model. I was made to tell short stories.",
                f"My name is {MODEL}. I am a tiny computer program that can tell stories and chat a little.",
                f"I am {MODEL}. I am a small computer program, not a person. I like to tell stories.",
                f"I am a very small demo model called {MODEL}. I can tell simple stories.",
            ],
        ),
        (
            [
                "Are you ChatGPT?",
                "Are you GPT-4?",
                "Are you Claude?",
                "Are you made by OpenAI?",
                "Are you Siri?",
                "Were you made by Apple?",
            ],
            [
                f"No. I am {MODEL}, a very small demo model. I can tell simple stories.",
                f"No, I am {MODEL}. I am much smaller, but I can tell you a story.",
            ],
        ),
        (
            [
                "What can you do?",
                "How can you help me?",
                "What do you do?",
                "help",
                "Help me",
                "What are you good at?",
                "What should I ask you?",
                "What can I ask?",
            ],
            [
                "I can tell short stories, chat a little, and answer very easy questions. Try this: tell me a story about a fox.",
                "I can tell you a simple story about an animal, a child, or a magic place. I can also answer easy questions.",
                "I am a small model. I am best at simple stories. Ask me for a story about a brave mouse!",
            ],
        ),
        (
            [
                "Thank you",
                "Thank you!",
                "Thanks!",
                "thanks",
                "Thanks a lot.",
                "thx",
                "Thank you so much!",
                "That was nice.",
                "That was a nice story.",
                "I liked that story!",
                "Good job!",
                "Great story!",
                "Well done.",
            ],
            [
                "You are welcome!",
                "You are very welcome! Would you like another story?",
                "I am happy that you liked it!",
                "You are welcome. Come back any time!",
                "Thank you! I enjoyed telling it.",
            ],
        ),
        (
            ["Bye", "Goodbye", "Bye!", "Good night", "See you later.", "bye bye", "Good night!", "I have to go.", "See you tomorrow!"],
            [
                "Goodbye! Have a lovely day.",
                "Bye! Come back soon for another story.",
                "Good night! Sleep well and have sweet dreams.",
                "See you later!",
            ],
        ),
        (
            [f"My name is {n}.", f"I am {n}.", f"Hi, I'm {n}.", f"Hello, my name is {n}.", f"i am {n}"],
            [
                f"Hello, {n}! It is nice to meet you.",
                f"Nice to meet you, {n}! Would you like a story?",
                f"Hi {n}! What would you like to hear about?",
                f"What a nice name, {n}! How are you today?",
            ],
        ),
        (
            ["I am sad.", "I feel sad today.", "I am not happy.", "I had a bad day.", "I feel lonely."],
            [
                "I am sorry to hear that. Would you like a happy story?",
                "I am sorry that you feel sad. Talking to a friend or taking a walk can help.",
                "That sounds hard. Be kind to yourself today. Maybe a warm drink and a story will help.",
            ],
        ),
        (
            ["I am happy.", "I feel great!", "I had a good day.", "Today was fun!"],
            [
                "That is wonderful! What made you happy?",
                "I am so glad to hear that!",
                "That makes me happy too. Would you like to hear a story?",
            ],
        ),
        (
            ["I am bored.", "I have nothing to do.", "What should I do today?"],
            [
                "Let us make up a story! Who should it be about?",
                "You could read a book, draw a picture, or go for a walk. Or I can tell you a story.",
                "How about a story? I know one about a brave little mouse.",
            ],
        ),
        (
            ["I cannot sleep.", "I can't sleep.", "I am tired."],
            [
                "Close your eyes and take a slow, deep breath. Would you like a bedtime story?",
                "Rest is good for you. Think of a quiet beach and soft waves.",
                "Try to count sheep. One sheep, two sheep, three sheep. Good night!",
            ],
        ),
        (
            ["I am hungry.", "What should I eat?", "What should I cook?"],
            [
                f"How about {r.choice(FOODS)}? That would taste good.",
                f"You could eat some {r.choice(FOODS)}.",
                "Maybe some warm soup and bread. That is simple and good.",
            ],
        ),
        (
            [
                "Do you like music?",
                "Do you like dogs?",
                "Do you like cats?",
                "Do you like stories?",
                "Do you like people?",
                "Do you have friends?",
                "Do you have a family?",
                "What is your favorite color?",
                "What is your favorite animal?",
                "What is your favorite food?",
                "How old are you?",
                "Where do you live?",
            ],
            None,
        ),
        (
            ["Tell me a joke.", "tell me a joke", "Do you know a joke?", "Make me laugh.", "Another joke please.", "Say something funny."],
            [
                "Why did the little cookie cry? Because its mother was a wafer so long!",
                "What do you call a bear with no teeth? A gummy bear!",
                "Why did the banana go to the doctor? It was not peeling well!",
                "What is brown and sticky? A stick!",
                "Why can you not give a balloon to a queen? Because she will let it go!",
                "What do you call a sleeping bull? A bulldozer!",
                "Why is the math book so sad? It has so many problems!",
                "What kind of tree fits in your hand? A palm tree!",
                "Why did the chicken cross the road? To get to the other side!",
                "What do cows like to read? Moo-spapers!",
                "Why did the duck go to the store? To buy quackers!",
                "What falls in winter but never gets hurt? Snow!",
            ],
        ),
        (
            ["Tell me a riddle.", "Do you know a riddle?", "Give me a riddle."],
            [
                "What has hands but cannot clap? A clock!",
                "What has a neck but no head? A bottle!",
                "What gets wet while it dries? A towel!",
                "What has many teeth but cannot bite? A comb!",
                "What goes up but never comes down? Your age!",
                "What has legs but cannot walk? A table!",
                "What can you catch but not throw? A cold!",
            ],
        ),
        (
            ["Is this a test?", "test", "Test", "testing", "This is a test.", "ping"],
            ["It works! I am here and ready.", "Yes, I can hear you. What would you like to talk about?", "The test works. Hello!"],
        ),
        (
            ["Yes", "yes", "Yes please", "ok", "Okay", "sure"],
            [
                "Great! What should the story be about?",
                "Good! Tell me an animal or a name, and I will make a story.",
                "Wonderful! Who should be in the story?",
            ],
        ),
        (["No", "no", "No thank you", "nope"], ["That is all right. I am here if you need me.", "Okay! We can talk about something else."]),
        (
            ["Sing a song.", "Sing me a song.", "Can you sing?"],
            [
                "La la la! The sun is up, the birds all sing. What a lovely, happy thing!",
                "Twinkle, little light of mine. In the dark I see you shine!",
                "La la la! Row and row across the sea. You and me and a honey bee!",
            ],
        ),
    ]
    q, a = r.choice(L)
    q = r.choice(q)
    if a is None:
        a = {
            "music": ["I cannot hear music, but I like stories about music."],
            "dogs": ["I like stories about dogs. They are kind and brave.", "Yes! Dogs are good friends."],
            "cats": ["I like stories about cats. They are clever and soft."],
            "stories": ["Yes, I love stories! Would you like to hear one?"],
            "people": ["Yes! I like to talk with people."],
            "friends": ["I am a program, so I do not have friends like you do. But I can be a friendly helper."],
            "family": ["I am a computer program, so I do not have a family."],
            "color": ["I like blue, like the sky on a sunny day.", "I cannot see colors, but I like stories about red balloons."],
            "animal": ["I like foxes. They are clever.", "I think small mice are very brave. That is my favorite."],
            "food": ["I do not eat, but apple pie sounds lovely."],
            "old": ["I am a computer program, so I do not have an age like you."],
            "live": ["I live inside a computer."],
        }
        for k in a:
            if k in q:
                return q, r.choice(a[k])
    return q, r.choice(a)


SOUND = dict(
    dog="woof",
    cat="meow",
    cow="moo",
    sheep="baa",
    pig="oink",
    duck="quack",
    horse="neigh",
    lion="roar",
    frog="ribbit",
    bee="buzz",
    owl="hoot",
    hen="cluck",
    goat="maa",
    mouse="squeak",
    wolf="howl",
    crow="caw",
    donkey="hee-haw",
    snake="hiss",
    bear="growl",
    goose="honk",
    bird="tweet",
)
LEGS = {
    "dog": 4,
    "cat": 4,
    "spider": 8,
    "ant": 6,
    "bird": 2,
    "horse": 4,
    "bee": 6,
    "snake": 0,
    "fish": 0,
    "cow": 4,
    "chicken": 2,
    "duck": 2,
    "elephant": 4,
    "octopus": 8,
    "person": 2,
    "butterfly": 6,
    "ladybug": 6,
}
NUMW = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty".split()
COLOF = {
    "the sky": "blue",
    "grass": "green",
    "the sun": "yellow",
    "a banana": "yellow",
    "snow": "white",
    "a strawberry": "red",
    "a carrot": "orange",
    "coal": "black",
    "a frog": "green",
    "blood": "red",
    "an elephant": "gray",
    "a lemon": "yellow",
    "milk": "white",
    "chocolate": "brown",
    "a tomato": "red",
    "the sea": "blue",
    "an orange": "orange",
    "a leaf": "green",
    "a polar bear": "white",
    "a crow": "black",
    "a flamingo": "pink",
    "the night sky": "black",
    "a plum": "purple",
    "wood": "brown",
    "a pumpkin": "orange",
    "corn": "yellow",
    "a cherry": "red",
    "a pig": "pink",
    "salt": "white",
}
OPP = dict(
    hot="cold",
    big="small",
    happy="sad",
    up="down",
    day="night",
    fast="slow",
    good="bad",
    light="dark",
    open="closed",
    wet="dry",
    loud="quiet",
    old="new",
    high="low",
    hard="soft",
    full="empty",
    left="right",
    near="far",
    early="late",
    clean="dirty",
    rich="poor",
    strong="weak",
    long="short",
    thick="thin",
    first="last",
    inside="outside",
    black="white",
    yes="no",
    sweet="sour",
    brave="scared",
    push="pull",
    begin="end",
    win="lose",
    true="false",
    young="old",
    heavy="light",
    easy="hard",
)
CAP = dict(
    France="Paris",
    Germany="Berlin",
    Italy="Rome",
    Spain="Madrid",
    Japan="Tokyo",
    China="Beijing",
    England="London",
    Russia="Moscow",
    India="New Delhi",
    Egypt="Cairo",
    Greece="Athens",
    Canada="Ottawa",
    Mexico="Mexico City",
    Brazil="Brasilia",
    Portugal="Lisbon",
    Ireland="Dublin",
    Norway="Oslo",
    Sweden="Stockholm",
    Finland="Helsinki",
    Poland="Warsaw",
    Austria="Vienna",
    Kenya="Nairobi",
    Peru="Lima",
    Cuba="Havana",
    Turkey="Ankara",
    Denmark="Copenhagen",
    Australia="Canberra",
    Argentina="Buenos Aires",
    Thailand="Bangkok",
    Hungary="Budapest",
    Belgium="Brussels",
    Chile="Santiago",
)
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MON = "January February March April May June July August September October November December".split()
CAT = {
    "fruits": "apples|bananas|cherries|pears|plums|grapes|oranges|lemons|peaches|strawberries",
    "vegetables": "carrots|potatoes|peas|corn|beans|onions|tomatoes|cabbage",
    "animals": "a dog|a cat|a lion|a bear|a horse|a fox|a rabbit|an elephant|a mouse|a cow",
    "colors": "red|blue|green|yellow|orange|purple|pink|brown|white|black",
    "farm animals": "a cow|a pig|a sheep|a hen|a goat|a horse|a duck",
    "toys": "a ball|a doll|a kite|a drum|a puzzle|a toy car|a teddy bear",
    "birds": "a robin|an owl|a crow|a duck|a swan|an eagle|a parrot|a penguin",
    "sea animals": "a whale|a dolphin|a crab|a shark|an octopus|a seal|a starfish",
    "things in the sky": "the sun|the moon|a star|a cloud|a bird|a rainbow",
    "drinks": "water|milk|tea|juice|cocoa|coffee",
    "shapes": "a circle|a square|a triangle|a star|a heart",
    "insects": "an ant|a bee|a butterfly|a ladybug|a fly",
    "things in a kitchen": "a pot|a spoon|a cup|a plate|a stove|a knife",
    "kinds of weather": "rain|snow|wind|sun|fog|a storm",
    "sports": "soccer|tennis|swimming|running|skating|baseball",
    "musical instruments": "a drum|a flute|a piano|a guitar|a violin|a trumpet",
}
DEF = """sun:The sun is a star. It gives us light and keeps us warm.|moon:The moon is a big ball of rock that goes around the Earth. We can see it at night.|star:A star is a hot, bright ball of gas that is very far away.|rain:Rain is water that falls from the clouds.|snow:Snow is frozen water that falls from the sky in soft white flakes.|
cloud:A cloud is made of many tiny drops of water that float in the sky.|rainbow:A rainbow is a band of colors in the sky. You can see it when the sun shines through the rain.|wind:Wind is air that moves.|river:A river is a long stream of water that flows to the sea or a lake.|sea:The sea is a very large area of salty water.|mountain:A mountain is a very high hill made of rock.|
forest:A forest is a place with many trees, where many animals live.|desert:A desert is a very dry place with little rain.|farm:A farm is a place where people grow food and keep animals.|city:A city is a large place where many people live and work.|school:A school is a place where children go to learn.|library:A library is a place where you can read and borrow books.|hospital:A hospital is a place where doctors and nurses help sick people.|
doctor:A doctor is a person who helps you when you are sick.|teacher:A teacher is a person who helps others learn.|farmer:A farmer is a person who grows food and takes care of animals.|baker:A baker is a person who makes bread and cakes.|computer:A computer is a machine that can work with words, numbers, and pictures.|robot:A robot is a machine that can do jobs by itself.|phone:A phone lets you talk to people who are far away.|book:A book has pages with words or pictures. You can read it to learn or to have fun.|
clock:A clock tells you what time it is.|map:A map is a picture that shows where places are.|bicycle:A bicycle has two wheels. You push the pedals with your feet to ride it.|train:A train is a row of cars that runs on rails and carries people or things.|boat:A boat is something that floats and carries people on the water.|airplane:An airplane is a machine with wings that can fly in the sky.|house:A house is a building where people live.|bridge:A bridge helps people cross over water or a road.|
friend:A friend is someone you like, who is kind to you and spends time with you.|family:A family is a group of people who love and take care of each other.|love:Love is a strong, warm feeling for someone.|fear:Fear is the feeling you have when you think something bad may happen.|dream:A dream is a story that your mind tells you while you sleep.|story:A story tells about people, animals, or places, and about what happens to them.|music:Music is made of sounds that are nice to hear.|
water:Water is a clear liquid. All living things need it.|fire:Fire is hot and bright. It can keep us warm, but it can also burn us.|ice:Ice is water that is frozen and hard.|bread:Bread is a food made from flour and water and baked in an oven.|milk:Milk is a white drink that comes from cows and other animals.|honey:Honey is a sweet food that bees make from flowers.|apple:An apple is a round fruit that grows on a tree.|banana:A banana is a long yellow fruit.|carrot:A carrot is an orange vegetable that grows in the ground.|egg:An egg is round and has a hard shell. Birds come out of eggs.|
dog:A dog is an animal that many people keep as a pet. Dogs are loyal and like to play.|cat:A cat is a small animal with soft fur. Many people keep cats as pets.|fox:A fox is a wild animal with a bushy tail. It is known for being clever.|bear:A bear is a big, strong animal with thick fur.|lion:A lion is a big wild cat. It can roar very loudly.|elephant:An elephant is a very big gray animal with a long trunk.|whale:A whale is a very large animal that lives in the sea.|bee:A bee is an insect that makes honey.|butterfly:A butterfly is an insect with beautiful wings.|owl:An owl is a bird that hunts at night.|
spider:A spider is a small animal with eight legs. It makes webs.|fish:A fish is an animal that lives in water and can swim.|bird:A bird is an animal with wings and feathers.|frog:A frog is a small animal that can jump and swim.|dinosaur:Dinosaurs were animals that lived on Earth a very long time ago.|dragon:A dragon is a big animal in stories. It can fly and breathe fire.|unicorn:A unicorn is a horse with one horn. It lives only in stories.|tree:A tree is a tall plant with a trunk, branches, and leaves.|flower:A flower is the pretty part of a plant.|seed:A seed is small, and a new plant can grow from it.|
winter:Winter is the coldest time of the year.|summer:Summer is the warmest time of the year.|spring:Spring is the time of the year when flowers begin to grow.|night:Night is the time when it is dark and most people sleep.|morning:Morning is the first part of the day.|language model:A language model is a computer program that has learned to put words together.|Earth:The Earth is the planet that we live on.|planet:A planet is a big round world that goes around a star.|volcano:A volcano is a mountain that can throw out hot rock and ash.|island:An island is land with water all around it."""
DEFS = dict(x.split(":", 1) for x in DEF.replace("\n", "").split("|"))


def ana(w):
    return ("an " if w[0].lower() in "aeiou" else "a ") + w


def fact(g):
    r = g.r
    k = r.randrange(13)
    if k == 0:
        a = r.choice(list(SOUND))
        return r.choice([f"What sound does {ana(a)} make?", f"What does {ana(a)} say?", f"What noise does {ana(a)} make?"]), r.choice(
            [
                f"{ana(a).capitalize()} says {SOUND[a]}.",
                f'{ana(a).capitalize()} goes "{SOUND[a]}!"',
                f"{SOUND[a].capitalize()}! That is the sound {ana(a)} makes.",
            ]
        )
    if k == 1:
        a = r.choice(list(LEGS))
        n = LEGS[a]
        w = "no" if n == 0 else NUMW[n]
        return r.choice([f"How many legs does {ana(a)} have?", f"how many legs has {ana(a)}"]), f"{ana(a).capitalize()} has {w} legs."
    if k == 2:
        a = r.choice(list(COLOF))
        c = COLOF[a]
        return r.choice([f"What color is {a}?", f"what colour is {a}?", f"Which color is {a}?"]), r.choice(
            [f"{a[0].upper() + a[1:]} is {c}.", f"It is {c}."]
        )
    if k == 3:
        a = r.choice(list(OPP))
        b = OPP[a]
        if r.random() < 0.4 and b not in OPP:
            a, b = b, a
        return r.choice([f"What is the opposite of {a}?", f'Give me the opposite of "{a}".', f"opposite of {a}"]), r.choice(
            [f"The opposite of {a} is {b}.", f"{b.capitalize()} is the opposite of {a}."]
        )
    if k == 4:
        a = r.choice(list(CAP))
        return r.choice(
            [f"What is the capital of {a}?", f"what's the capital of {a}?", f"Which city is the capital of {a}?", f"capital of {a}"]
        ), r.choice([f"The capital of {a} is {CAP[a]}.", f"{CAP[a]} is the capital of {a}."])
    if k == 5:
        i = r.randrange(7)
        f = r.random() < 0.6
        return (
            (
                r.choice([f"What day comes after {DAYS[i]}?", f"Which day is after {DAYS[i]}?"]),
                f"{DAYS[(i + 1) % 7]} comes after {DAYS[i]}.",
            )
            if f
            else (f"What day comes before {DAYS[i]}?", f"{DAYS[i - 1]} comes before {DAYS[i]}.")
        )
    if k == 6:
        i = r.randrange(12)
        return f"What month comes after {MON[i]}?", f"{MON[(i + 1) % 12]} comes after {MON[i]}."
    if k == 7:
        a, b = r.randrange(0, 11), r.randrange(0, 11)
        if r.random() < 0.6:
            q, c, w = (
                r.choice([f"What is {a} + {b}?", f"What is {a} plus {b}?", f"{a}+{b}", f"How much is {a} and {b}?", f"{a} + {b} = ?"]),
                a + b,
                f"{a} plus {b}",
            )
        else:
            a, b = max(a, b), min(a, b)
            q, c, w = r.choice([f"What is {a} - {b}?", f"What is {a} minus {b}?", f"{a}-{b}"]), a - b, f"{a} minus {b}"
        return q, r.choice([f"{w.capitalize()} is {c}.", f"The answer is {c}.", f"It is {c}."])
    if k == 8:
        n = r.choice([3, 3, 5, 5, 10, 4, 7])
        return r.choice([f"Count to {n}.", f"Count from 1 to {n}.", f"Can you count to {NUMW[n]}?", f"count to {NUMW[n]}"]), ", ".join(
            NUMW[1 : n + 1]
        ).capitalize() + "." if r.random() < 0.3 else ", ".join(str(i) for i in range(1, n + 1)) + "."
    if k == 9:
        c = r.choice(list(CAT))
        n = r.choice([2, 3, 3, 3, 4, 5])
        it = r.sample(CAT[c].split("|"), min(n, len(CAT[c].split("|"))))
        n = len(it)
        q = r.choice(
            [
                f"Name {NUMW[n]} {c}.",
                f"List {n} {c}.",
                f"Tell me {NUMW[n]} {c}.",
                f"Give me {n} {c}.",
                f"Can you name {NUMW[n]} {c}?",
                f"Write a list of {NUMW[n]} {c}.",
            ]
        )
        x = r.random()
        if x < 0.4:
            a = f"{NUMW[n].capitalize()} {c} are {', '.join(it[:-1])} and {it[-1]}."
        elif x < 0.7:
            a = "\n".join(f"{i + 1}. {y[0].upper() + y[1:]}" for i, y in enumerate(it))
        else:
            a = "\n".join(f"- {y[0].upper() + y[1:]}" for y in it)
        return q, a
    if k in (10, 11):
        d = r.choice(list(DEFS))
        art = (
            "the "
            if d in ("sun", "moon", "sea", "Earth")
            else ""
            if d
            in (
                "rain",
                "snow",
                "wind",
                "love",
                "fear",
                "music",
                "water",
                "fire",
                "ice",
                "bread",
                "milk",
                "honey",
                "winter",
                "summer",
                "spring",
                "night",
                "morning",
            )
            else ("an " if d[0] in "aeiou" else "a ")
        )
        return r.choice(
            [
                f"What is {art}{d}?",
                f"What is {art}{d}?",
                f"what's {art}{d}",
                f"Explain what {art}{d} is.",
                f"Can you tell me what {art}{d} is?",
                f"Tell me about {art}{d}." if art != "a " and art != "an " else f"Define {d}.",
            ]
        ), DEFS[d]
    a = r.choice(list(AN))
    pl, fo, bed, mv = AN[a]
    return r.choice(
        [
            (f"Where does {ana(a)} live?", f"{ana(a).capitalize()} lives {at(pl)}."),
            (f"What does {ana(a)} eat?", f"{ana(a).capitalize()} eats {fo}."),
            (
                f"Where does {ana(a)} sleep?",
                f"{ana(a).capitalize()} sleeps in a {bed}."
                if bed not in ("tall grass", "deep sea", "mud", "ice")
                else f"{ana(a).capitalize()} sleeps in the {bed}.",
            ),
        ]
    )


RHY = [
    ("day", "play"),
    ("tree", "me"),
    ("sky", "fly"),
    ("night", "bright"),
    ("sun", "fun"),
    ("sea", "free"),
    ("hill", "still"),
    ("rain", "again"),
    ("star", "far"),
    ("house", "mouse"),
    ("song", "long"),
    ("snow", "go"),
    ("light", "tight"),
    ("moon", "soon"),
    ("hat", "cat"),
    ("nest", "rest"),
]


def poem(g):
    r = g.r
    k = r.choice(list(AN) + list(MAGIC) + ["the sun", "the moon", "the rain", "the sea", "winter", "a tree", "the stars"])
    w = k if k[:4] == "the " or k[:2] == "a " or k == "winter" else ana(k)
    A = {
        "day": ["{W} came out to see the day", "Hello, hello, you happy day", "Oh what a warm and lovely day"],
        "play": ["and everybody came to play", "come with me and let us play", "we have so many games to play"],
        "tree": ["{W} sat beneath a tree", "There was a nest up in the tree"],
        "me": ["and it sang a song for me", "come and sit down next to me"],
        "sky": ["{W} looked up at the sky", "The birds are singing in the sky"],
        "fly": ["and wished that everyone could fly", "so high and far the swallows fly"],
        "night": ["{W} walked out in the night", "The stars are quiet in the night"],
        "bright": ["and all the world was soft and bright", "the moon is round and very bright"],
        "sun": ["{W} is smiling in the sun", "Good morning, good morning, golden sun"],
        "fun": ["today we have a lot of fun", "come out with us and have some fun"],
        "sea": ["{W} went down to the sea", "The waves are dancing in the sea"],
        "free": ["where all the winds are wild and free", "the little boats are light and free"],
        "hill": ["{W} stood upon a hill", "The grass is green upon the hill"],
        "still": ["and all the air was soft and still", "the evening light is warm and still"],
        "rain": ["{W} danced out in the rain", "Drip and drop, here comes the rain"],
        "again": ["and then the sun came out again", "tomorrow we will play again"],
        "star": ["{W} saw a shining star", "Good night, good night, my little star"],
        "far": ["that sent its light from very far", "you shine for us from very far"],
        "house": ["{W} built a tiny house", "There is a light inside the house"],
        "mouse": ["and shared it with a little mouse", "as quiet as a sleeping mouse"],
        "song": ["{W} sang a little song", "Listen, listen to the song"],
        "long": ["and it was sweet and not too long", "the summer days are warm and long"],
        "snow": ["{W} walked out in the snow", "The world is white and full of snow"],
        "go": ["hand in hand is how we go", "over the quiet hills we go"],
        "light": ["{W} saw a golden light", "The window has a little light"],
        "tight": ["and held a friend and held on tight", "close your eyes and sleep so tight"],
        "moon": ["{W} waved up at the moon", "Silver, silver, lovely moon"],
        "soon": ["good night, dear friend, I see you soon", "the morning sun is coming soon"],
        "hat": ["{W} wore a funny hat", "The wind has blown away my hat"],
        "cat": ["and danced together with the cat", "so warm and happy sleeps the cat"],
        "nest": ["{W} found a tiny nest", "The birds are sleeping in the nest"],
        "rest": ["now it is time to take a rest", "the day is done and we can rest"],
    }
    L = []
    first = True
    for a, b in r.sample(RHY, r.choice([1, 2, 2, 3])):
        x = A[a][0] if first else r.choice(A[a][1:])
        first = False
        L += [x.replace("{W}", w[0].upper() + w[1:]) + ",", r.choice(A[b]) + "."]
    L = [x[0].upper() + x[1:] for x in L]
    return r.choice(
        [
            f"Write a poem about {w}.",
            f"Write a short poem about {w}.",
            f"Tell me a poem about {w}.",
            f"Can you write a poem about {w}?",
            f"poem about {w}",
            f"Make a rhyme about {w}.",
        ]
    ), "\n".join(L)


W = "apple river stone happy green window seven paper morning cloud bridge silver garden yellow button summer quiet mountain little orange candle basket winter pencil purple forest simple water circle blue table hello world test one two three red dog cat fish moon sun star open close server model ready".split()


def copy_(g):
    r = g.r
    n = r.randint(1, 5)
    t = " ".join(r.choice(W) if r.random() < 0.75 else g.fake() for _ in range(n))
    t2 = t[0].upper() + t[1:]
    if r.random() < 0.3:
        t2 = g.ex(
            "[This is a test|Hello world|Hello, world|I am ready|Good morning|The server works|It is a sunny day|Stories are fun|I like {a}|My name is {b}]",
            dict(a=r.choice(FOODS), b=g.fake()),
        )
    return r.choice(
        [
            (f'Say "{t2}".', t2 + "."),
            (f"Say {t2.lower()}", t2 + "."),
            (f"Repeat after me: {t2}.", t2 + "."),
            (f"Say this is a test", "This is a test."),
            ("Say this is a test!", "This is a test!"),
            (f"Repeat: {t2}", t2),
            (f"Write the words: {t}", t),
            (f"Say hello to {t2.split()[0]}.", f"Hello, {t2.split()[0]}!"),
        ]
    )


NO = [
    "I am a very small demo model, so I do not know that. I am best at simple stories. Would you like one?",
    "I am sorry, that is too hard for me. I am a tiny model made for short stories.",
    "I do not know the answer. I am only a small demo model, but I can tell you a story.",
    "That is a good question, but I am too small to answer it well. A larger model can help you.",
    "I am sorry, I cannot do that. I am a tiny demo model. I can tell you a short story.",
]


def words(g, m, n):
    """what the request mentions -> natural phrase, from what the story really contains"""
    r = g.r
    v, h, f = m["v"], m["h"], m["f"]
    k = h["k"]
    ak = ana(k)
    x = r.random()
    opts = [
        (ak, 5),
        (f"{ak} named {h['n']}", 4),
        (f"{ana(v['size'] + ' ' + k)}", 2),
        (f"{ak} and {ana(f['k'])}", 2 if f["k"] != k and m["hasf"] else 0),
        (f"{h['n']} the {k}", 2),
        (f"{h['n']} and {f['n']}", 1 if m["hasn"] else 0),
        (f"{h['n']}", 1),
        (m["theme"], 2),
        (f"{ak} who learns that {m['moral']}", 1),
        (f"{ak} {pat(m['place'])}", 1 if m["haspl"] else 0),
    ]
    return r.choices([o[0] for o in opts], [o[1] for o in opts])[0]


def follow(g, m):
    r = g.r
    h, f, v = m["h"], m["f"], m["v"]
    q = [
        (
            ["What was the name of the %s?" % h["k"], "Who was the story about?", "What is the hero's name?"],
            [f"The {h['k']} was named {h['n']}.", f"The story was about {h['n']}, a {h['k']}.", f"{h['n']}."],
        ),
        (
            ["Who helped %s?" % h["n"], "Who is %s?" % f["n"]],
            [
                f"{f['n']} is a {f['k']}.",
            ]
            if True
            else [],
        ),
        (["What kind of animal is %s?" % h["n"], "Who is %s?" % h["n"]], [f"{h['n']} is a {h['k']}."]),
        (
            ["What did %s learn?" % h["n"], "What is the moral of the story?", "What is the lesson?", "What does the story teach us?"],
            [f"{h['n']} learned that {m['moral']}.", f"The story teaches us that {m['moral']}."],
        ),
    ]
    if not m.get("hasn") or not m.get("hasf"):
        q.pop(1)
    if m["moral"] not in m.get("text", ""):
        q.pop()
    a, b = r.choice(q)
    qq = r.choice(a)
    if qq.startswith("Who helped"):
        qq = f"Who is {f['n']}?"
    return qq, fix(r.choice(b))


def chat(g):
    """-> list of (role, text)"""
    r = g.r
    msgs = []
    if r.random() < 0.3:
        msgs.append(("system", r.choice(SYS)))
    x = r.random()

    def add(q, a):
        msgs.append(("user", q))
        msgs.append(("assistant", a))

    if x < 0.62:
        if r.random() < 0.15:
            q, a = smalltalk(g)
            add(q, a)
        for i in range(r.choice([1, 1, 1, 2])):
            if i and r.random() < 0.5:
                t, m = story(g, length="short")
                add(r.choice(AGAIN), t)
            else:
                y = r.random()
                if y < 0.08:
                    t, m0 = tiny(g)
                    w = (
                        r.choice([ana(m0["h"]["k"]), f"{ana(m0['h']['k'])} named {m0['h']['n']}"])
                        if m0["h"]["n"] in t and "named" in t
                        else ana(m0["h"]["k"])
                    )
                    add(
                        r.choice(
                            [
                                f"Tell me a very short story about {w}.",
                                f"Write a story about {w} in three sentences.",
                                f"Tell me a tiny story about {w}.",
                                f"Write a one-paragraph story about {w}.",
                            ]
                        ),
                        t,
                    )
                    continue
                t, m = story(g)
                q = r.choice(SREQ)
                m["hasf"] = m["f"]["k"] in t
                m["hasn"] = m["f"]["n"] in t
                m["haspl"] = pat(m["place"]) in t
                m["text"] = t
                if "{w}" in q:
                    q = q.replace("{w}", words(g, m, 0))
                z = r.random()
                if z < 0.12:
                    q = (
                        q.rstrip("?.!") + r.choice([f". Use the words {v}." for v in [f"{m['v']['obj']} and {m['v']['color']}"]])
                        if m["v"]["obj"] in t and m["v"]["color"] in t
                        else q
                    )
                elif z < 0.24 and "short" not in q:
                    q = q.rstrip("?.") + {"short": ". Keep it short.", "medium": ".", "long": ". Make it long."}[m["length"]]
                add(q, r.choice(PRE) + t)
                if r.random() < 0.22:
                    add(*follow(g, m))
            if r.random() < 0.1:
                add(*next((q, a) for q, a in iter(lambda: smalltalk(g), 0) if "hank" in q or "story" in q or "job" in q))
    elif x < 0.76:
        for i in range(r.choice([1, 1, 2, 3])):
            add(*smalltalk(g))
    elif x < 0.90:
        for i in range(r.choice([1, 2, 3])):
            add(*(fact(g) if r.random() < 0.85 else smalltalk(g)))
    elif x < 0.94:
        add(*poem(g))
    else:
        add(*copy_(g))
    return msgs
