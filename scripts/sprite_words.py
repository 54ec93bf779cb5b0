"""Which emoji become concepts, and the English they are spoken of with: read by build_sprites.py only."""

from __future__ import annotations

# Emoji groups that are taken whole, and single emoji taken from the other groups.
GROUPS = ("animals-nature", "food-drink", "travel-places", "activities", "objects")
EXTRA = ("skull", "ghost", "alien", "robot", "speech balloon", "love letter")

# Clock faces and card suits: two dozen near copies, and symbols rather than things.
SKIP_WORDS = ("o’clock", "-thirty", "spade suit", "heart suit", "diamond suit", "club suit")

# Emojione draws another thing under this name: a real gun, a cricket bat.
NOT_THE_SAME = {("emojione", "water pistol"), ("emojione", "cricket")}

# Names of Emojione (of 2017) that no current name or shortcode leads to.
OLD_NAMES = {"robot": "robot-face", "bullseye": "direct-hit"}

# The label in the Unicode data, and the name here: short, lower case, a thing rather than an activity.
RENAMED = {
    "T-Rex": "t-rex", "headphone": "headphones", "leafy green": "leafy greens",
    "black bird": "blackbird", "sheaf of rice": "rice plant",
    "leaf fluttering in wind": "fluttering leaves", "front-facing baby chick": "front-facing chick",
    "ear of corn": "corn", "cheese wedge": "cheese", "cooking": "frying pan", "shallow pan of food": "paella",
    "pot of food": "stew pot", "roasted sweet potato": "sweet potato",
    "fish cake with swirl": "fish cake", "bottle with popping cork": "champagne bottle", "hot beverage": "coffee",
    "teacup without handle": "green tea", "pouring liquid": "pouring drink",
    "fork and knife with plate": "plate with cutlery", "steaming bowl": "noodle bowl",
    "globe showing Europe-Africa": "africa globe", "globe showing Americas": "americas globe",
    "globe showing Asia-Australia": "asia globe", "globe with meridians": "wire globe",
    "snow-capped mountain": "snowy mountain", "camping": "campsite", "beach with umbrella": "beach",
    "building construction": "construction site", "wedding": "wedding chapel", "foggy": "foggy city",
    "night with stars": "starry night", "sunrise over mountains": "mountain sunrise", "cityscape": "city",
    "cityscape at dusk": "city at dusk", "bridge at night": "night bridge", "hot springs": "hot spring",
    "metro": "metro train", "light rail": "light rail train", "station": "train station",
    "automobile": "car", "oncoming automobile": "oncoming car", "sport utility vehicle": "suv",
    "articulated lorry": "semi truck", "manual wheelchair": "wheelchair", "police car light": "siren",
    "construction": "construction barrier", "airplane departure": "departing airplane",
    "airplane arrival": "arriving airplane", "hourglass done": "hourglass", "hourglass not done": "running hourglass",
    "cloud with lightning and rain": "thunderstorm", "cloud with rain": "rain cloud", "cloud with snow": "snow cloud",
    "cloud with lightning": "lightning cloud", "umbrella with rain drops": "umbrella in rain",
    "umbrella on ground": "beach umbrella", "high voltage": "lightning bolt", "snowman without snow": "snowman",
    "snowman": "snowman in snow", "water wave": "wave", "dizzy": "dizzy star",
    "1st place medal": "gold medal", "2nd place medal": "silver medal", "3rd place medal": "bronze medal",
    "tennis": "tennis ball", "bowling": "bowling ball", "cricket game": "cricket bat",
    "field hockey": "field hockey stick", "ice hockey": "ice hockey stick", "lacrosse": "lacrosse stick",
    "ping pong": "ping pong paddle", "badminton": "badminton racket", "flag in hole": "golf flag",
    "video game": "game controller", "pool 8 ball": "billiard ball", "piñata": "pinata",
    "mahjong red dragon": "mahjong tile", "flower playing cards": "flower card", "performing arts": "theater masks",
    "moon viewing ceremony": "moon viewing", "woman’s clothes": "blouse", "man’s shoe": "dress shoe",
    "woman’s sandal": "heeled sandal", "woman’s boot": "heeled boot", "woman’s hat": "sun hat",
    "rescue worker’s helmet": "rescue helmet", "speaker low volume": "low volume speaker",
    "speaker medium volume": "medium volume speaker", "speaker high volume": "high volume speaker",
    "bell with slash": "muted bell", "mobile phone": "phone", "mobile phone with arrow": "phone with arrow",
    "electric plug": "plug", "computer disk": "minidisc", "optical disk": "cd",
    "magnifying glass tilted left": "magnifying glass", "magnifying glass tilted right": "flipped magnifying glass",
    "red paper lantern": "paper lantern", "notebook with decorative cover": "decorated notebook",
    "page with curl": "curled page", "page facing up": "page", "chart increasing with yen": "yen chart",
    "chart increasing": "rising chart", "chart decreasing": "falling chart", "e-mail": "email",
    "closed mailbox with raised flag": "mailbox with flag up",
    "closed mailbox with lowered flag": "mailbox with flag down",
    "open mailbox with raised flag": "open mailbox with flag up",
    "open mailbox with lowered flag": "open mailbox with flag down", "ballot box with ballot": "ballot box",
    "locked": "padlock", "unlocked": "open padlock", "locked with pen": "padlock with pen",
    "locked with key": "padlock with key", "link": "chain link", "drop of blood": "blood drop",
    "roll of paper": "toilet paper", "nazar amulet": "evil eye amulet",
    "map of Japan": "map of japan", "nut and bolt": "bolt and nut",
}  # fmt: skip

# Spoken of in the plural ("the grapes are"); several of them are "two sets of grapes".
PLURAL = (
    "paw prints", "fluttering leaves", "grapes", "cherries", "blueberries", "peanuts", "beans",
    "pancakes", "french fries", "chopsticks", "clinking beer mugs", "clinking glasses", "houses", "sparkles",
    "fireworks", "japanese dolls", "admission tickets", "skis", "nesting dolls", "theater masks", "glasses",
    "sunglasses", "goggles", "jeans", "gloves", "socks", "briefs", "shorts", "shopping bags", "ballet shoes",
    "prayer beads", "musical notes", "control knobs", "maracas", "headphones",
    "leafy greens", "film frames", "books", "bookmark tabs",
    "card index dividers", "linked paperclips", "scissors", "crossed swords", "chains", "bubbles",
)  # fmt: skip

# Not counted; several of them are "two pieces of bread".
MASS = (
    "bread", "baguette bread", "flatbread", "stuffed flatbread", "bacon", "cheese", "sushi", "spaghetti", "popcorn",
    "butter", "salt", "canned food", "cooked rice", "curry rice", "shaved ice", "soft ice cream", "ice cream",
    "candy", "custard", "sake", "ice", "wood", "garlic", "ginger root", "broccoli", "corn", "coral",
    "green tea", "coffee", "bubble tea", "mate", "fog", "fire", "money with wings", "toilet paper",
    "luggage", "meat on bone",
    "lipstick", "soap", "thread", "yarn", "dna", "green salad", "falafel", "oden", "paella", "fondue",
)  # fmt: skip

# One of it, where the rule (a or an, and the name) would be wrong.
ONE = {
    "statue of liberty": "the statue of liberty", "mount fuji": "mount fuji", "tokyo tower": "tokyo tower",
    "kaaba": "the kaaba", "milky way": "the milky way", "unicorn": "a unicorn",
    "one-piece swimsuit": "a one-piece swimsuit", "euro banknote": "a euro banknote", "hourglass": "an hourglass",
    "x-ray": "an x-ray", "suv": "an suv",
}  # fmt: skip

# Several of it, where the rule would be wrong.
MANY = {
    "mouse": "mice", "computer mouse": "computer mice", "ox": "oxen", "goose": "geese", "wolf": "wolves",
    "fish": "fish", "tropical fish": "tropical fish", "blowfish": "blowfish", "jellyfish": "jellyfish",
    "deer": "deer", "moose": "moose", "bison": "bison", "squid": "squid", "shrimp": "shrimp",
    "fried shrimp": "fried shrimp", "cactus": "cacti", "kitchen knife": "kitchen knives",
    "maple leaf": "maple leaves", "fallen leaf": "fallen leaves", "scarf": "scarves",
    "octopus": "octopuses", "snowman": "snowmen",
    "snowman in snow": "snowmen in snow", "potato": "potatoes", "sweet potato": "sweet potatoes",
    "tomato": "tomatoes", "mango": "mangoes", "volcano": "volcanoes", "mosquito": "mosquitoes",
    "water buffalo": "water buffaloes", "bolt and nut": "bolts and nuts",
    "fork and knife": "forks and knives", "hammer and pick": "hammers and picks",
    "hammer and wrench": "hammers and wrenches", "bow and arrow": "bows and arrows",
    "couch and lamp": "couches and lamps",
    "bus": "buses", "trolleybus": "trolleybuses",
    "minibus": "minibuses", "oncoming bus": "oncoming buses", "game die": "game dice", "tornado": "tornadoes",
    "coffee": "cups of coffee", "green tea": "cups of green tea", "bubble tea": "cups of bubble tea",
    "mate": "cups of mate", "sake": "bottles of sake", "paella": "pans of paella", "fondue": "pots of fondue",
    "green salad": "bowls of green salad", "cooked rice": "bowls of cooked rice",
    "curry rice": "plates of curry rice", "spaghetti": "plates of spaghetti", "oden": "sticks of oden",
    "soft ice cream": "cones of soft ice cream", "ice cream": "bowls of ice cream",
    "shaved ice": "cones of shaved ice", "canned food": "cans of food", "toilet paper": "rolls of toilet paper",
    "yarn": "balls of yarn", "thread": "spools of thread", "fog": "layers of fog", "fire": "fires",
    "salt": "shakers of salt", "popcorn": "tubs of popcorn", "money with wings": "bundles of money with wings",
    "dna": "strands of dna", "baguette bread": "sticks of baguette bread", "lipstick": "sticks of lipstick",
    "broccoli": "heads of broccoli", "garlic": "heads of garlic", "corn": "ears of corn", "fly": "flies",
    "luggage": "pieces of luggage", "custard": "plates of custard",
}  # fmt: skip

# Words of names that make no two concepts kin ("red apple" and "red envelope").
EMPTY_WORDS = frozenset(
    """a and at in of on the with up down small large big open closed red green blue white black pink yellow orange
    brown gray purple hot cold flat long old new light dark front-facing oncoming place flag wild baby running high low
    medium first last full half crossed tilted flipped magic water kitchen bell clutch face japanese military hole
    arrow bow medal fire box bottle sweet""".split()
)


def one(name: str) -> str:
    """A phrase for one of it: `a dog`, `an owl`, `some grapes`."""
    if name in ONE:
        return ONE[name]
    if name in MASS or name in PLURAL:
        return f"some {name}"
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def many(name: str) -> str:
    """A phrase that follows a number: `dogs`, `pieces of bread`, `sets of grapes`."""
    if name in MANY:
        return MANY[name]
    if name in MASS:
        return f"pieces of {name}"
    if name in PLURAL:
        return f"sets of {name}"
    for link in (" with ", " of ", " on ", " at ", " in ", " behind "):
        if link in name:
            head, _, rest = name.partition(link)
            return f"{_plural(head)}{link}{rest}"
    return _plural(name)


def _plural(noun: str) -> str:
    if noun in MANY:
        return MANY[noun]
    if noun.endswith(("s", "x", "z", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"
