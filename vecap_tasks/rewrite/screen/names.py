"""Names that are no news: short forms with what they stand for, and words that are capitalised whatever they name."""


def _table(text: str) -> dict[str, frozenset[str]]:
    """Read lines of `short: the words it may be written as`, several to a line, parted by semicolons."""
    entries = (entry.partition(":") for line in text.split("\n") for entry in line.split(";") if entry.strip())
    return {short.strip(): frozenset(words.split()) for short, _, words in entries}


SPELLED_OUT = _table("""
    al: alabama; ak: alaska; az: arizona; ar: arkansas; ca: california canada; co: colorado company county
    ct: connecticut court; de: delaware; fl: florida; ga: georgia; hi: hawaii; id: idaho; il: illinois; in: indiana
    ia: iowa; ks: kansas; ky: kentucky; la: louisiana los angeles; me: maine; md: maryland doctor; ma: massachusetts
    mi: michigan; mn: minnesota; ms: mississippi; mo: missouri; mt: montana mount mountain; ne: nebraska; nv: nevada
    nh: new hampshire; nj: new jersey; nm: new mexico; ny: new york; nc: north carolina; nd: north dakota; oh: ohio
    ok: oklahoma; or: oregon; pa: pennsylvania; ri: rhode island; sc: south carolina; sd: south dakota; tn: tennessee
    tx: texas; ut: utah; vt: vermont; va: virginia; wa: washington western australia; wv: west virginia; wi: wisconsin
    wy: wyoming; dc: washington district columbia; nyc: new york city; sf: san francisco
    usa: united states america american u.s; us: united states america american
    uk: united kingdom britain british england; uae: united arab emirates; eu: european union europe; nz: new zealand
    bc: british columbia; ab: alberta; on: ontario; qc: quebec; ns: nova scotia; nsw: new south wales; vic: victoria
    qld: queensland; tas: tasmania; sa: south africa australia; hk: hong kong; prc: china; ussr: soviet union
    st: saint street; ste: saint sainte; dr: doctor drive; mr: mister; ave: avenue; av: avenue; blvd: boulevard
    rd: road; ln: lane; hwy: highway; ft: fort; pt: point port; univ: university; u: university; dept: department
    intl: international; int: international; natl: national; assn: association; corp: corporation; inc: incorporated
    ltd: limited; jr: junior; sr: senior; pres: president; gov: governor government; sen: senator
    rep: representative republic; gen: general; capt: captain; lt: lieutenant; sgt: sergeant; col: colonel
    prof: professor; rev: reverend; mtn: mountain; mtns: mountains; mts: mountains; vol: volume; ed: edition
    ep: episode; pkwy: parkway; sq: square; bldg: building; ctr: center centre; xmas: christmas; bday: birthday
    vw: volkswagen; chevy: chevrolet; mac: macintosh; hp: hewlett packard harry potter; ge: general electric
    gm: general motors; wwii: world war ii; ww2: world war ii; ww1: world war i; wwi: world war i; lotr: lord rings
    got: game thrones; sw: star wars; fb: facebook; ig: instagram; yt: youtube; nfl: national football league
    france: french; french: france; dutch: netherlands holland; netherlands: dutch; holland: dutch; spain: spanish
    spanish: spain; britain: british; british: britain; england: english british; english: england; wales: welsh
    greece: greek; greek: greece; poland: polish; scotland: scottish; ireland: irish; denmark: danish; sweden: swedish
    switzerland: swiss; turkey: turkish; finland: finnish; germany: german; china: chinese; japan: japanese
    india: indian; america: american; europe: european; thailand: thai; mexico: mexican; peru: peruvian
    deutschland: germany german; italia: italy; españa: spain; münchen: munich; wien: vienna; roma: rome
    firenze: florence; venezia: venice; köln: cologne; praha: prague; moskva: moscow; lisboa: lisbon; milano: milan
    alpine: alps; alps: alpine; napoli: naples; genova: genoa; torino: turin; toscana: tuscany tuscan; sicilia: sicily
    sevilla: seville; catalunya: catalonia; cataluña: catalonia; bayern: bavaria bavarian; nürnberg: nuremberg
    bretagne: brittany; normandie: normandy; provence: provencal; londres: london; allemagne: germany german
    alemania: germany german; espagne: spain spanish; italie: italy italian; francia: france french
    suisse: switzerland; schweiz: switzerland swiss; österreich: austria austrian; belgique: belgium belgian
    nederland: netherlands dutch; grecia: greece; griechenland: greece; mexiko: mexico; estados: united states
    unidos: united states; lago: lake; lac: lake; río: river; playa: beach; plage: beach; strand: beach; isla: island
    île: island; insel: island; monte: mount mountain; château: castle; castillo: castle; schloss: castle palace
    kirche: church; église: church; iglesia: church; catedral: cathedral; dom: cathedral; tor: gate; brücke: bridge
    pont: bridge; puente: bridge; torre: tower; turm: tower; platz: square; plaza: square; piazza: square
    straße: street; strasse: street; calle: street; rue: street; museo: museum; musée: museum; parque: park; parc: park
    jardin: garden; jardín: garden; mer: sea; meer: sea; mar: sea march; norte: north; nord: north; sur: south
    sud: south; cristo: christ; santa: saint; san: saint; sankt: saint; nuevo: new; nueva: new; brasil: brazil
    jan: january; feb: february; apr: april; jun: june; jul: july; aug: august; sep: september; sept: september
    oct: october; nov: november; dec: december; mon: monday; tue: tuesday; wed: wednesday; thu: thursday; fri: friday
    sat: saturday; sun: sunday; merc: mercedes; benz: mercedes; nikes: nike; bros: brothers; brothers: bros
    cath: cathedral; mus: museum; hosp: hospital
""")

_EVERYDAY = """
i i'm i've i'd i'll january february march april may june july august september october november december monday
tuesday wednesday thursday friday saturday sunday tv dvd cd led lcd usb pc suv bbq diy gps hd vr ok dj ceo atm
rv bc ad am pm mr mrs ms dr t-shirt internet christmas santa english american western earth pvc 3d 2d xl xxl xs fm ac
dc cctv logo polaroid xmas easter halloween fc gothic victorian baroque renaissance deco bluetooth wifi
"""
EVERYDAY = frozenset(_EVERYDAY.split())
