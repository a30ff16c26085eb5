"""Words that say nothing about a picture. An AltText made of nothing else is no caption; beside other words they stay.

The lists are ours, from reading AltText of the web. Words stand in lower case, as runs of letters and digits.
"""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# What a page calls an image where it has nothing to say about it.
GENERIC = _words("""
    image images img imgs pic pics picture pictures photo photos photograph photography graphic graphics
    illustration figure fig icon icons logo logos banner banners avatar thumbnail thumbnails thumb thumbs placeholder
    spacer blank dummy default untitled unnamed undefined null none nan na test sample example temp tmp copy final
    background bg header footer hero cover featured feature main primary slide slider slideshow carousel gallery
    screenshot screen shot scan attachment upload uploaded file media asset content post page article item title
    caption alt alttext text tag description descriptive name here click enlarge zoom view full size fullsize large
    larger small medium big high low resolution version more see show open close previous next prev back top arrow
    loading loader available coming soon not found no profile user author staff admin source credit courtesy getty
    stock shutterstock youtube video play button link site website web homepage detail details preview generic
    a an the of by to for from in on at it is this that our my your and or with as
    bild bilder foto fotos abbildung grafik titel ohne photographie cliquez pour agrandir l d la le les un une
    sans titre imagen imágenes fotografía sin título de del el haga clic para ampliar imagem fotografia sem
    immagine immagini senza titolo afbeelding foto s obraz obrazek zdjęcie kuva bilde billede resim görsel
    изображение картинка фото фотография без названия 画像 写真 イメージ 图片 图像 照片 이미지 사진 صورة תמונה εικόνα
""")

# What a shop, a menu or a notice says on every page.
BOILERPLATE = _words("""
    buy now shop shopping order orders add added to basket cart bag checkout wishlist compare quick look purchase
    sale sales sold out off discount discounts deal deals offer offers special save saving savings clearance coupon
    voucher code promo promotion price prices priced cheap cheapest best low lowest free shipping ship delivery
    deliveries delivered tomorrow today week month only everything all products product online store stores in stock
    before after am pm until up from per over rated review reviews customers rating stars
    subscribe subscription newsletter sign signup login log register account join us follow like share tweet
    favourite favorite network networks social facebook twitter instagram pinterest linkedin whatsapp email mail
    print rss feed home about contact menu navigation search faq help support blog news categories category
    read more learn less continue click here view see visit find get got
    please enable javascript cookies cookie loading wait browser does not support privacy policy terms conditions
    service copyright rights reserved reproduction prohibited advertisement ad ads sponsored
    a an the of by for on at it is are this that our my your we you and or with as any every be can will not no
    jetzt kaufen in den warenkorb versandkostenfrei versand ajouter au panier acheter maintenant livraison gratuite
    añadir al carrito comprar envío gratis
""")
