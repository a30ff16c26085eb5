"""Sources of images and AltText: web sites, URL lists, archives and webdataset tars."""
