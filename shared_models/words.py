"""Four words that two people compare by telephone: each is a byte, so together they are 32 bits.

The words are short, everyday, and no two begin with the same three letters, so one that was heard badly is noticed.
"""

_LISTED = """
acorn actor album alley almond anchor angel apple apron arch arrow atlas autumn bacon badge bamboo banjo barrel
basket beach berry blanket bottle bridge broom bucket butter cabin cactus camel candle carpet castle cellar cherry
chisel circus clover cobra coffee comet copper coral cotton cradle cricket crystal curtain cushion dagger daisy
dancer desert diamond dinner doctor dolphin donkey dragon drum eagle easel echo elbow elephant ember engine envelope
falcon farmer feather fiddle filter finger flame flute forest fossil fountain fox frost funnel gallery garden gate
ginger giraffe glacier glove goblet gorilla granite guitar hammer harbour hazel helmet heron honey hornet hotel
hunter igloo indigo ink iron island ivory jacket jaguar jasmine jelly jewel jigsaw judge jungle kayak kennel kettle
kitchen knight koala ladder lagoon lantern lemon leopard lettuce lily linen lizard lobster locket lotus magnet mango
maple marble meadow melon mermaid metal mirror monkey mosaic motor mountain mustard napkin nectar needle nickel
noodle notebook nutmeg oasis ocean olive onion opal orange orchid ostrich otter oven oyster paddle palace panther
parrot peach pebble pelican pencil pepper piano pigeon pillow pirate planet plum pocket poet pony potato pumpkin
puzzle pyramid quartz queen quilt rabbit radish raft rainbow raven ribbon river robin rocket rooster ruby rudder
saddle sailor salmon sandal saucer scarf shadow skater soldier spider spoon squirrel statue sunset swan sword table
tailor teapot temple thunder ticket tiger timber toast tomato tower tractor trumpet tulip tunnel turtle umbrella
unicorn valley vanilla velvet village violin volcano vulture waffle wagon walnut whale whistle willow window wizard
wolf yacht zebra zipper
"""
WORDS = _LISTED.split()


def spoken(data: bytes) -> str:
    """A word for each of these bytes, with spaces between."""
    return " ".join(WORDS[each] for each in data)
