"""What is known of users and items: contracts, sources, feature tables, and the releases as Feast reads them."""
