"""What the shop sells on its first day; prices in cents."""

from __future__ import annotations

from typing import Final

from .service import Listing

CATALOGUE: Final = (
    Listing("TEA-EARL-GREY", "Earl Grey, 100 g", "tea", 690),
    Listing("TEA-SENCHA", "Sencha, 100 g", "tea", 1250),
    Listing("TEA-ROOIBOS", "Rooibos, 100 g", "tea", 540),
    Listing("TEA-ASSAM", "Assam, 100 g", "tea", 720),
    Listing("COF-ESPRESSO", "Espresso beans, 500 g", "coffee", 1490),
    Listing("COF-FILTER", "Filter roast, 500 g", "coffee", 1390),
    Listing("COF-DECAF", "Decaffeinated, 250 g", "coffee", 980),
    Listing("POT-CAST-IRON", "Cast iron teapot", "pots", 6900),
    Listing("POT-GLASS", "Glass teapot", "pots", 2450),
    Listing("POT-MOKA", "Moka pot, 6 cups", "pots", 3290),
    Listing("CUP-PLAIN", "Plain cup", "cups", 850),
    Listing("CUP-JAPANESE", "Japanese cup", "cups", 1600),
    Listing("MILL-HAND", "Hand mill", "tools", 8900),
    Listing("MILL-ELECTRIC", "Electric mill", "tools", 18900),
    Listing("SIEVE", "Tea sieve", "tools", 490),
    Listing("KETTLE-GOOSE", "Gooseneck kettle", "tools", 12900),
)
STOCK = 5_000  # of each, on the first day
