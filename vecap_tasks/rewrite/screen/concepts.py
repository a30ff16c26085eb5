"""Concepts of pictures and the words that may stand for each: a puppy is a dog, crimson is red, a pair is two.

The table is our own, of what pictures mostly show. A line is a concept; a word may belong to several, and two words
mean the same where they share one, so that a general word goes with each of its kinds. Words that exclude each other
(man and woman, red and blue, cat and dog) share none.
"""

from __future__ import annotations

from collections.abc import Iterable

from vecap_tasks.rewrite.screen.words import NUMBER_WORDS, stem

_ROLES = """
player singer actor musician artist painter performer athlete soldier officer doctor dentist nurse teacher chef cook
baker barista bartender waiter worker farmer fisherman firefighter pilot driver rider cyclist biker runner jogger hiker
skier surfer swimmer skater snowboarder skateboarder dancer photographer speaker politician president minister senator
leader ceo director professor student graduate commuter tourist traveler visitor guest fan spectator customer vendor
seller model pitcher batter catcher quarterback goalkeeper striker defender midfielder golfer boxer wrestler gymnast
guitarist drummer bassist pianist violinist dj rapper climber jockey cowboy astronaut scientist engineer mechanic
carpenter gardener lawyer judge reporter journalist host employee staff colleague friend couple parent twin senior
elder elderly someone human figure face portrait worshipper pilgrim protester competitor contestant winner champion
legend star celebrity hero character patient client buyer owner neighbor resident local citizen veteran coach referee
batsman bowler rower sailor diver blogger influencer author writer poet comedian conductor conductress candidate
""".replace("\n", " ")

_TABLE = f"""
man men guy gentleman gentlemen male person people adult boy lad teenager teen youth dad father grandfather grandpa
 husband groom king prince monk priest bishop pope mr sir lord duke actor waiter fisherman policeman businessman
 fireman sportsman footballer {_ROLES}
woman women lady ladies female person people adult girl teenager teen youth mom mother grandmother grandma wife bride
 queen princess mrs ms miss actress waitress ballerina goddess policewoman businesswoman sportswoman {_ROLES}
child children kid toddler baby infant newborn boy girl youngster young youth teenager teen son daughter student pupil
 schoolboy schoolgirl person people little grandchild sibling brother sister
people person persons crowd group audience team squad band family couple pair duo trio quartet
 choir orchestra army troop crew gathering public guests attendees crowd everyone staff class members party parade
 {_ROLES}
couple pair newlywed bride groom lover wedding duo
baby infant newborn toddler child
dog dogs puppy pup canine hound retriever labrador lab terrier collie poodle bulldog shepherd spaniel husky beagle
 corgi dachshund pug chihuahua dalmatian rottweiler doberman mastiff boxer setter pointer greyhound whippet malamute
 samoyed schnauzer pomeranian shih maltese animal pet
cat cats kitten kitty feline tabby siamese persian sphynx animal pet
horse pony stallion mare foal colt equine mustang thoroughbred racehorse animal jockey rider equestrian
cow cattle bull calf ox heifer bison buffalo herd livestock animal
sheep lamb ewe ram flock herd goat livestock animal
bird birds eagle hawk owl parrot pigeon dove duck goose swan heron gull seagull crow raven sparrow robin finch hen
 chicken rooster penguin flamingo peacock pelican stork falcon hummingbird kingfisher ostrich turkey animal
bear grizzly polar panda cub animal
elephant tusk animal wildlife
lion lioness tiger leopard cheetah jaguar panther cub predator animal wildlife feline
deer stag elk moose reindeer antelope gazelle fawn animal wildlife
fish shark salmon trout tuna koi goldfish whale dolphin carp bass cod sashimi sushi seafood aquarium animal
insect bug butterfly bee wasp moth beetle dragonfly ladybug ant fly bumblebee monarch spider animal
frog toad lizard gecko snake turtle tortoise crocodile alligator reptile amphibian dinosaur animal
monkey ape gorilla chimpanzee orangutan primate animal
rabbit bunny hare animal
pig piglet boar hog animal
squirrel chipmunk mouse rat hamster rodent animal
car cars automobile vehicle sedan suv coupe convertible hatchback wagon taxi cab limousine roadster minivan van jeep
 sportscar racecar camry corolla civic mustang corvette porsche ferrari bmw audi mercedes toyota honda ford auto
truck lorry pickup van vehicle trailer tractor semi
bus coach minibus vehicle
motorcycle motorbike bike scooter moped chopper vehicle motor harley
bicycle bike cycle cyclist biker cycling mountain-bike tricycle
train locomotive railway railroad tram subway metro rail carriage steam
plane airplane aeroplane aircraft jet airliner airline biplane boeing airbus jetliner glider fighter
boat ship yacht sailboat vessel ferry canoe kayak rowboat dinghy catamaran gondola cruise raft barge sail
helicopter chopper aircraft
water sea ocean lake river pond stream creek bay coast coastal harbor harbour waterfall canal waterfront lagoon pool
 shore marine wave waves surf flood fountain
beach shore coast seaside seashore sand sandy shoreline tropical
wave surf swell
mountain mountains hill peak summit alps alpine range cliff volcano mount ridge canyon rocky himalaya slope
rock stone boulder cliff cobble granite pebble rocky
forest woods wood tree trees woodland jungle rainforest grove
tree trees palm pine oak maple sequoia fir birch willow cedar cypress olive foliage greenery branch trunk orchard
plant plants greenery foliage shrub bush vegetation fern succulent cactus herb leaf leaves vine houseplant potted
 flower tree seedling lush
leaf leaves foliage greens green basil mint salad herb lettuce spinach
flower flowers blossom bloom bouquet rose tulip daisy lily orchid sunflower peony lavender hydrangea floral petal
 carnation iris dahlia poppy wildflower coneflower echinacea magnolia lotus
grass lawn field meadow pasture turf green grassy garden yard park hillside graze
field meadow farm farmland crop pasture vineyard harvest countryside plantation pitch
fruit apple orange banana grape berry strawberry blueberry raspberry cherry lemon lime pear peach plum mango melon
 watermelon pineapple kiwi fig pomegranate grapes
grape vine vineyard wine
vegetable carrot tomato potato pepper onion cucumber broccoli cabbage pumpkin corn bean beans mushroom salad produce
onion scallion shallot chive
food dish meal plate cuisine dinner lunch breakfast snack pizza pasta salad soup curry sandwich burger steak rice
 sushi noodle ramen taco burrito stew recipe entree appetizer barbecue brunch buffet cooking
soup broth stew ramen chowder bowl noodle pho
meat beef pork steak chicken ham bacon sausage lamb turkey barbecue grill
dessert cake cupcake pie tart pastry cookie biscuit macaron brownie donut doughnut muffin pudding cheesecake sweet
 sweets candy chocolate treat icecream baked bake baking oven
bread loaf toast bun baguette roll sandwich bagel baked
bake baked baking oven fresh
cookie biscuit macaron cracker
cheese mozzarella parmesan cheddar feta pizza
drink beverage cocktail juice soda tea coffee beer wine lemonade smoothie shake water champagne latte
coffee espresso latte cappuccino mocha barista cafe brew
wine champagne prosecco bottle moet bordeaux bubbly
glass flute goblet cup tumbler mug champagne toast drink
cup mug glass teacup tumbler
plate dish platter tray bowl saucer stand
table desk counter countertop tabletop bench nightstand sideboard dining island
chair seat stool armchair recliner bench rocker seating
sofa couch settee loveseat sectional futon seating
bed bedroom mattress crib bunk bedding duvet
blanket throw quilt duvet comforter bedding cover
carpet rug mat runner kilim
cabinet cupboard dresser drawers sideboard wardrobe shelf shelves bookcase chest furniture armoire console buffet
knob handle pull
furniture sofa couch table desk chair bed cabinet dresser sideboard
room interior bedroom lounge living kitchen bathroom office studio hall classroom lecture lobby indoor suite dining
kitchen cook cooking oven stove refrigerator fridge appliance cafe
appliance refrigerator fridge oven stove microwave dishwasher toaster washer
bathroom bath shower toilet tub restroom sink washroom vanity
window glass pane windowsill
door doorway entrance gate entry portal doors
wall brick fence partition
fence railing hurdle gate barrier paling
road street highway lane avenue path trail route driveway freeway asphalt crosswalk track roadway dirt
path walkway trail sidewalk pavement footpath alley lane way track boardwalk promenade
building buildings house home tower skyscraper apartment office structure architecture mansion palace castle warehouse
 skyline museum hotel school hospital factory barn shop store church temple station dealership villa opera city
 downtown facade condo cathedral chapel
house home cottage villa mansion cabin bungalow residence building property farmhouse townhouse
church cathedral chapel temple mosque monastery abbey basilica shrine
stairs stairway staircase steps stair escalator
bridge viaduct overpass aqueduct
tower skyscraper steeple spire clock minaret lighthouse
city town urban downtown skyline cityscape metropolis village street
stage concert performance gig live theater theatre show festival recital sing perform
microphone mic sing singer speak speaker speech podium karaoke interview
podium lectern speak speech keynote lecture
sing song singer concert vocal perform
stadium arena field pitch court ballpark
school classroom university college student lecture campus education
dress gown frock robe skirt outfit attire
suit tuxedo blazer formal jacket businessman
shirt tshirt tee top blouse jersey polo sweatshirt
sweater jumper cardigan pullover hoodie knit knitted
jacket coat blazer parka anorak hoodie overcoat
pants trousers jeans leggings slacks denim shorts
clothes clothing outfit apparel attire wear costume uniform garment dress dressed clad
uniform jersey kit outfit
costume outfit dress cosplay dressed
shoe shoes sneaker trainers boot boots sandal heel heels loafer footwear slipper cleat
hat cap beanie helmet headgear fedora bonnet beret crown
glasses sunglasses spectacles eyewear goggles shades
scarf shawl wrap bandana
bag handbag purse tote backpack clutch satchel suitcase luggage pouch rucksack
necklace pendant chain jewelry jewellery choker locket
ring band jewelry jewellery engagement
earring jewelry jewellery stud hoop
bracelet bangle jewelry jewellery wristband
gem stone gemstone diamond emerald ruby sapphire turquoise crystal jewel
watch wristwatch timepiece rolex chronograph dial
face dial clock watch
clock watch time alarm
phone smartphone cellphone mobile telephone iphone handset
computer laptop notebook macbook pc keyboard desktop
screen monitor display television tv
camera dslr lens photographer
machine typewriter device equipment engine appliance printer gadget
guitar instrument bass
piano instrument keyboard
drum drummer instrument percussion
ball football soccer basketball baseball tennis volleyball pass throw shot serve game match
football soccer footballer quarterback touchdown goal
racket racquet tennis backhand forehand serve
bat batter baseball cricket hitter
surf surfboard surfer wave board
ski skier slope snowboard
sign signage billboard placard banner board poster notice
text letter letters word words writing lettering inscription caption quote typography print message reads read
poster flyer infographic print banner advertisement ad cover
picture painting artwork illustration drawing sketch print portrait image photo photograph canvas art mural cover
drawing drawings illustration icon sketch graphic cartoon clipart diagram
book novel paperback hardcover notebook magazine album volume
newspaper paper magazine news
paper sheet document page printable letter card newspaper
box case package carton crate chest packaging container bucket
bottle flask jar container
bucket pail
basket hamper bin
toy doll figurine plush teddy lego puzzle
statue sculpture figure bust monument
flag banner pennant
candle candles birthday lit
birthday cake candle party celebrate celebration
celebrate celebration party festive raise arms raised occasion cheer
balloon balloons party
light lights lamp lit glow glowing illuminate illuminated bright lantern chandelier lighting shine neon
lamp light lantern sconce
night evening dark dusk nighttime midnight moon
sunset dusk sundown twilight evening sun golden
sunrise dawn daybreak morning sun rising
sun sunny sunlight sunlit sunset sunrise
sky cloud clouds cloudy heaven stormy overcast storm
cloud cloudy overcast stormy storm
snow snowy winter ice icy frost frosty snowfall
ice icy frozen chill chilled chilling
fire flame blaze burn burning smoke bonfire campfire
smoke smoky dust steam steaming fog mist
dirt dusty dust desert mud muddy sand unpaved
firefighter fireman fire
wood wooden timber oak walnut pine teak mahogany log hardwood
metal steel iron aluminum chrome stainless brass metallic copper
gold golden brass
silver chrome steel platinum gray metallic sterling stainless
leather suede
hair blonde brunette hairstyle haircut curls beard
blonde blond fair
monochrome grayscale bw
red crimson scarlet maroon burgundy ruby cherry rust redbrick
pink rose magenta fuchsia salmon coral blush purple
orange amber rust tangerine coral autumn terracotta
yellow golden mustard lemon blond amber gold
green emerald olive lime mint teal sage jade
blue navy azure turquoise teal cobalt indigo aqua cyan sapphire denim
purple violet lavender lilac plum mauve magenta
brown tan beige chestnut chocolate bronze bay walnut
white ivory cream creamy snowy pale
cream beige ivory white
black ebony dark
gray silver charcoal slate
colorful multicolored vibrant colored bright rainbow color colors pastel assorted
color colors shade shades hue tone tones
old vintage antique retro ancient elderly aged historic classic
old elderly senior aged
large big huge giant enormous massive great towering tall open
small little tiny mini miniature petite slender short young kitten puppy pup
tall high towering tower
modern contemporary sleek stainless
round circular
hold holding held carry carrying clutch grasp grip bear cradle toast raise
wear wearing wore worn dressed clad dress sport costume outfit
stand standing stood pose posing wait waiting
sit sitting sat seated seat perch rest bench listen
lie lying lay laying rest resting curl sleep asleep
sleep sleeping asleep nap napping doze slumber curl
walk walking stroll march wander hike hiking ascend climb
run running race racing sprint jog dash
ride riding rode ridden mount cycling race catch
drive driving drove race cruise kick
fly flying flew flight soar airborne take takeoff land landing runway
jump jumping leap leaping hop hurdle
climb climbing ascend scale
look looking gaze gazing stare staring watch watching face
smile smiling grin grinning laugh laughing beam happy
hug hugging embrace embracing cuddle
kiss kissing embrace
talk talking speak speaking chat speech conversation address discuss
play playing perform performing splash game
eat eating feed feeding graze grazing munch bite dine
drink drinking sip sipping toast
cut cutting slice slicing sliced chop chopped carve
make making prepare preparing cook pour pouring bake brew
swim swimming pool swimmer splash
throw throwing pass toss pitch
hit hitting swing swinging strike kick
catch catching caught
read reading
write writing
pick picking collect collecting gather harvest
park parked outside station
hang hanging hung suspend suspended pendant
cover covered topped top coat blanket
decorate decorated topped adorned ornament pattern decoration icing
hand hands arm arms finger handful
fight fighting battle battling combat
float floating drift drifting sail
spray spraying water hose battle
obstacle hurdle barrier fence
seat seated row rows
speech speak talk lecture keynote
"""

_COUNTS = {
    **{word: number for word, number in NUMBER_WORDS.items() if len(word) > 2},
    **{str(number): number for number in range(1, 101)},
    **{"duo": 2, "both": 2, "trio": 3, "quartet": 4},
}


def _read(table: str) -> dict[str, frozenset[str]]:
    """Return the concepts of each stem, named by their first word. A line that begins with a blank goes on."""
    made: dict[str, set[str]] = {}
    for number, line in enumerate(table.strip().replace("\n ", " ").split("\n")):
        for word in line.split():
            made.setdefault(stem(word), set()).add(f"{line.split()[0]} {number}")
    for word, count in _COUNTS.items():
        made.setdefault(stem(word), set()).add(f"count {count}")
    return {word: frozenset(concepts) for word, concepts in made.items()}


_CONCEPTS = _read(_TABLE)


def concepts(stems: Iterable[str]) -> frozenset[str]:
    """Return the names of the concepts that any of *stems* may stand for; none for words that the table lacks.

    >>> [bool(concepts((a,)) & concepts((b,))) for a, b in (("puppy", "dog"), ("crimson", "red"), ("two", "duo"))]
    [True, True, True]
    >>> concepts(("dog",)) & concepts(("cat",))
    frozenset()
    """
    return frozenset().union(*(_CONCEPTS[word] for word in stems if word in _CONCEPTS))
