/**
 * The words that stories are made of. Tables are plain text so that they can be read and extended; everything here is
 * singular unless its name says otherwise, and every adjective goes with the noun of its line.
 */

/** The first half are girls' names, see `girls` and `boys`. */
export const girls = words(`
  Mia Anna Lily Nora Ella Rosa Clara Ivy Maya Zoe Hanna Lena Tess Ruby Alma Nina Edith Greta Iris June Kira Leah Mabel
  Olive Paula Sara Tilda Vera Wilma Yara Amina Sofia Flora Judith Marta
`);
export const boys = words(`
  Ben Tom Leo Max Sam Finn Oscar Hugo Noah Jonas Theo Adam Emil Felix Henry Ivan Jack Karl Luca Milo Nils Omar Paul Ravi
  Simon Toby Victor Will Yusuf Anton Dario Eddie George Peter Martin
`);

/** Names of pets. */
export const petNames = words(`
  Biscuit Pepper Button Pickle Clover Mango Rusty Snowy Waffle Nutmeg Bramble Dusty Hazel Jumper Moss Pebble Sunny Tinker
  Pudding Domino Whiskers Toffee Ginger Shadow
`);

/** Pets, small enough to be held. */
export const pets = words(
  'dog cat rabbit parrot duck hen mouse turtle lamb goose kitten puppy hamster ferret canary dove',
);

/** Animals that talk in fables. */
export const wildAnimals = words(`
  fox hedgehog squirrel owl badger hare mole otter beaver raven frog bear deer sparrow wren toad weasel heron stork mouse
`);

/** Birds and other animals that are counted, in the plural. */
export const countedAnimals = words(`
  ducks geese sheep lambs goats hens swans rabbits piglets ponies calves kittens puppies doves
`);

/** Things that are noticed and counted on the way, in the plural. */
export const countedSights = phrases(`
  white butterflies, red boats, black crows, little snails, green frogs, grey pigeons, tall chimneys, yellow tulips,
  stone steps, brown cows, blue doors, old lamps, fat bumblebees, round hay bales, wooden gates
`);

export const colours = words('red blue green yellow white brown grey orange purple pink black silver golden');

/** Clothes that have a colour, in the singular. */
export const clothes = words('coat hat scarf jumper cap jacket raincoat cardigan shirt hood');

/** What a child owns, finds, loses or gives: it fits into a hand or under an arm. */
export const things = table(`
  key: silver brass rusty iron golden
  ring: silver golden copper thin
  button: red blue wooden pearl
  coin: silver old foreign golden
  marble: green blue glass cloudy
  whistle: tin wooden silver red
  bell: brass little silver cracked
  spoon: wooden silver tiny
  shell: white pink curly speckled
  feather: blue grey spotted long
  ribbon: yellow purple red silk
  pebble: flat round striped shiny
  comb: wooden silver green
  pencil: red short golden
  stamp: foreign old blue
  locket: silver golden heart-shaped
  acorn: shiny golden tiny
  bead: glass amber purple
  cup: blue tin chipped china
  candle: white tall yellow
  compass: brass old pocket
  watch: silver old broken
  ball: red rubber leather striped
  doll: wooden rag little
  kite: red paper yellow striped
  drum: tin little painted
  flute: wooden silver bamboo
  boat: paper wooden toy
  train: toy wooden red
  puzzle: wooden little difficult
  lantern: paper iron green
  mirror: round little silver
  letter: long crumpled secret
  map: old torn secret
  medal: golden bronze shiny
  purse: leather red little
  bracelet: silver beaded blue
  paintbrush: thin old wooden
  notebook: green little leather
  postcard: faded yellow old
  teapot: blue china copper
  book: thick old blue picture
  scarf: woollen orange knitted
  mitten: woollen grey knitted
  umbrella: black yellow striped
  trumpet: toy brass dented
  magnet: strong round little
  star: paper golden glass
  horse: wooden toy painted
  bear: toy brown one-eared
  hammer: toy little wooden
  basket: little willow round
  top: wooden spinning painted
  spyglass: brass long old
  bottle: green glass tiny
  crown: paper golden cardboard
  necklace: coral pearl beaded
  fan: paper silk painted
  penknife: old little silver
  harmonica: silver tin old
  owl: china wooden knitted
  snow globe: little glass old
  music box: wooden tiny silver
  skipping rope: red long new
  photograph: faded old little
  pine cone: large sticky perfect
  jigsaw piece: missing blue odd
  sailing ship: toy tin little
  magnifying glass: round brass heavy
`);

/** Where something may lie in a house: preposition, then thing: adjectives. */
export const indoorSpots = table(`
  under rug: red striped brown
  under pillow: white blue soft
  under bed: big old wooden
  under stairs: wooden narrow steep
  under cushion: purple green round
  under table: round kitchen long
  under blanket: grey woollen warm
  behind clock: tall kitchen old
  behind curtain: red long blue
  behind door: cellar heavy white
  behind mirror: cracked long oval
  behind stove: iron black warm
  behind picture: little dusty crooked
  behind trunk: leather black sailor's
  behind armchair: old yellow soft
  behind piano: brown dusty broken
  in basket: round willow sewing
  in drawer: top bottom middle
  in jar: brown honey empty
  in boot: left brown muddy
  in box: tin wooden hat
  in chest: oak green heavy
  in jug: white milk cracked
  in bowl: blue wooden sugar
  in teapot: china yellow copper
  in wardrobe: old painted narrow
  on shelf: top lowest narrow
  on windowsill: wide kitchen sunny
`);

/** The same out of doors. */
export const outdoorSpots = table(`
  under pot: blue red yellow cracked
  under bench: old green stone
  under bush: rose thorny low
  under bucket: tin yellow rusty
  under tub: wooden grey round
  under cart: hay broken red
  under ladder: long wooden white
  under log: hollow mossy thick
  behind barrel: big rain oak
  behind shed: garden little grey
  behind woodpile: high tidy long
  behind haystack: tall golden second
  behind rock: flat white round
  behind gate: green iron open
  in wheelbarrow: red old rusty
  in birdhouse: green empty little
  in rowing boat: old blue upturned
  in sack: flour empty brown
  in ditch: dry deep narrow
  beside well: old stone village
  beside fence: white broken wooden
  beside apple tree: old crooked tall
  beside pump: water iron rusty
  beside beehive: yellow third painted
  beside millstone: old broken mossy
  on wall: garden low stone
`);

/** Somewhere to go under the open sky: how one is there, then what one goes to. */
export const outdoorPlaces = phrases(`
  in garden, in forest, on beach, in orchard, in meadow, on hill, in park, in field, on island, on playground, in valley,
  in vineyard, in schoolyard, by river, by lake, by bridge, by pond, by waterfall, by fountain, by canal, in harbour,
  at market, on pier, at fair, on farm, in marsh, on heath, by brook, in dunes, by old oak
`);

/** The same under a roof. */
export const indoorPlaces = phrases(`
  in barn, at station, at lighthouse, in cave, in stable, in greenhouse, in workshop, in tower, at windmill, in museum,
  in library, at bakery, in boathouse, in hayloft, at post office, in castle, at water mill, in village hall,
  in bell tower, in theatre
`);

/** People with a trade, whom everybody in the village knows. */
export const trades = words(`
  baker farmer gardener librarian shoemaker fisherman tailor blacksmith miller carpenter potter weaver shepherd painter
  clockmaker beekeeper
`);

export const relatives = words('grandmother grandfather aunt uncle mother father');

/** Fruit, in the plural. */
export const fruits = words(`
  apples pears plums cherries peaches strawberries grapes oranges blueberries figs melons raspberries apricots
  blackberries bananas lemons
`);

/** What one cooks with, without an article. */
export const foods = words(`
  bread milk honey cheese flour butter rice eggs carrots onions salt beans potatoes jam sugar mushrooms cabbage oats
  cocoa nuts
`);
export const groceries = [...foods, ...words('tea soap string candles matches wool ink nails')];

/** What one can win or earn. */
export const prizes = phrases(`
  a jar of honey, a basket of plums, a bag of nuts, a silver cup, a warm pie, a box of paints, a chocolate cake,
  a wooden sword, a pair of skates, a ride on the grey pony, a blue ribbon, a bowl of cherries, a new kite, a golden medal
`);

/** Secret words and names of songs: nouns that no other table uses. */
export const secretWords = words(`
  thunder moonlight cinnamon rainbow velvet dragon pumpkin winter candlewick marigold lavender starfish anchor whisper
  saffron emerald comet snowflake peppermint dandelion
`);

export const flowers = words(`
  sunflower daisy poppy tulip bean pumpkin rose marigold pea bluebell cornflower violet
`);

export const tools = words('hammer saw spade rake ladder bucket rope lantern brush wheelbarrow needle shovel broom');

export const weekdays = words('Monday Tuesday Wednesday Thursday Friday Saturday');

export const numbers = words('three four five six seven eight nine ten eleven twelve');

/** "One morning": how a story begins. */
export const beginnings = phrases(`
  one sunny morning, one windy morning, early one morning, one bright day, one cold morning, one quiet afternoon,
  one warm afternoon, one morning in spring, one day in autumn, on the first day of summer, one grey day,
  one fine afternoon, one day late in summer, on a misty morning, on a clear day, one afternoon after school,
  one day in the holidays, one fresh morning in May, on a cloudy afternoon, one golden day in September
`);

function words(text: string): readonly string[] {
  return text.trim().split(/\s+/);
}

function phrases(text: string): readonly string[] {
  return text.split(',').map((phrase) => phrase.trim());
}

/** Lines of `head: adjective adjective`; gives [head, adjectives]. */
function table(text: string): readonly (readonly [string, readonly string[]])[] {
  return text
    .trim()
    .split('\n')
    .map((line) => {
      const [head = '', adjectives = ''] = line.split(':');
      return [head.trim(), words(adjectives)] as const;
    });
}
