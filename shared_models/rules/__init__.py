"""What is computed: pure functions over records, which read nothing but their arguments. So anyone can check them."""
