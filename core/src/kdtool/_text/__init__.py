"""Names, suggestions and tables: text that kdtool reads from users or writes for them."""
