def args(): return []
